"""`genrecall embed`: item text, or vectors made elsewhere, to the artifact that semantic IDs are built from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import RUN, AsJson, CatalogPath, Device, Force, Run


def command(
    run: Run = RUN,
    encoder: Annotated[
        str | None, typer.Option(help="minilm (English), multilingual (Chinese and others), or a model directory.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Columns in braces: '{title}. {brand}'. Default: the text columns there are.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Vectors made elsewhere: .parquet (item_id, vector) or .npy.")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="Item ids of the rows of a .npy file, one a line.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Most texts a batch. Default: by tokens.")] = None,
    device: Device = "auto",
    catalog: CatalogPath = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/vectors.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn every item's text into a vector. Nothing is downloaded.

    Example: genrecall embed --run runs/shop --template '{title}. {brand}. {categories}'

    Example: torchrun --nproc-per-node 4 -m genrecall embed -r runs/shop --encoder DIRECTORY
    """
    from genrecall import processes, telemetry
    from genrecall.artifacts import open_artifact
    from genrecall.catalog.store import Catalog
    from genrecall.errors import ConfigError
    from genrecall.text.embed import embed_catalog
    from genrecall.text.encoder import DEFAULT
    from genrecall.text.precomputed import import_vectors

    if (vectors and (encoder or template)) or (ids and not vectors):
        raise ConfigError(
            "these options contradict each other",
            seen="--ids without --vectors" if not vectors else "--vectors with --encoder or --template",
            allowed="--vectors FILE [--ids FILE], or [--encoder …] [--template …]",
            fix="decide whether the vectors are given or computed here",
        )
    telemetry.console.quiet = not processes.is_main()
    target = out or run / "vectors"
    loaded = Catalog.load(catalog or run / "catalog")
    if vectors:
        made = import_vectors(loaded, vectors, target, ids=ids, force=force)
    else:
        made = embed_catalog(
            loaded, out=target, encoder=encoder or DEFAULT, template=template,
            batch_size=batch_size, device=device, force=force,
        )  # fmt: skip
    if not processes.is_main():
        return
    manifest = open_artifact(target, kind="vectors", verify=False).manifest
    if as_json:
        figures = {"items": len(made), "dim": made.dim, "digest": made.digest, "path": str(target)}
        print(json.dumps({**figures, **manifest.config, "facts": manifest.facts}, ensure_ascii=False, indent=2))
    else:
        print(f"vectors  {len(made):,} items x {made.dim}  {made.identity['name']}  {target}  {made.digest}")
