"""`genrecall export` and `genrecall load`: make a bundle; check one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import RUN, AsJson, CatalogPath, Device, Force, ModelPath, Run, SidPath


def export(
    run: Run = RUN,
    beam: Annotated[int, typer.Option(help="Beam width of the search that is shipped.")] = 50,
    items_per_sid: Annotated[int | None, typer.Option(help="At most so many items of one SID in a list.")] = None,
    catalog: CatalogPath = None,
    sid: SidPath = None,
    model: ModelPath = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/bundle.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Gather model, SIDs, items and classic channels into one directory under one digest.

    Example: genrecall export --run runs/shop --beam 50
    """
    from genrecall.catalog.store import Catalog
    from genrecall.recall.generative import GenerativeConfig
    from genrecall.recipes import stages
    from genrecall.recipes.recipe import Recipe

    recipe = Recipe(generative=GenerativeConfig(beam=beam, items_per_sid=items_per_sid))
    bundle = stages.export(
        Catalog.load(catalog or run / "catalog"),
        sid=sid or run / "sid",
        model=model or run / "model",
        out=out or run / "bundle",
        recipe=recipe,
        force=force,
    )
    if as_json:
        print(json.dumps({"path": str(bundle.path), "digest": bundle.digest}))
    else:
        print(f"bundle  {bundle.manifest.facts['items']:,} items  {bundle.path}  {bundle.digest}")


def load(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Open a bundle, verify every checksum, make it ready to answer, and print what it is.

    Example: genrecall load runs/shop/bundle
    """
    from genrecall.bundle.load import Recommender

    shop = Recommender.load(bundle, device=device)
    facts = {
        "digest": shop.digest,
        "items": len(shop.items),
        "space": list(shop.table.space.codes),
        "normalise": shop.generative.engine.config.normalise,
        "channels": [shop.generative.name, *shop.channels],
        "beam": shop.generative.config.beam,
        "split": dict(shop.split),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:10} {value}")
