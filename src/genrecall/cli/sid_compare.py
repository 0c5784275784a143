"""`genrecall sid compare`: several tokenisers of one catalog on one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import (
    RUN,
    AsJson,
    CatalogPath,
    Device,
    Repeats,
    Run,
    SplitRule,
    TieSeed,
    split_config,
)  # fmt: skip


def command(
    run: Run = RUN,
    levels: Annotated[int, typer.Option(help="L: codes in a SID.")] = 4,
    codes: Annotated[int, typer.Option(help="C: codes to choose from at each level.")] = 256,
    collaborative_weight: Annotated[
        float, typer.Option(help="Share of training behaviour where text and behaviour are joined.")
    ] = 0.5,
    behaviour_vectors: Annotated[
        Path | None,
        typer.Option(help="Item matrix fitted on the training events, .npy or .safetensors. Default: our own."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Keep tokenisers with this word. Can be repeated.")] = None,
    cases: Annotated[int, typer.Option(help="At most so many validation cases.")] = 5000,
    split: SplitRule = "leave_one_out",
    repeats: Repeats = "first",
    tie_seed: TieSeed = 0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Device = "auto",
    catalog: CatalogPath = None,
    vectors: Annotated[Path | None, typer.Option("--vectors", help="Vectors artifact. Default: RUN/vectors.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the page as HTML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the page as Markdown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build several tokenisers and show them on one page: collisions, use of the codes, neighbours, item-level recall.

    The recall is that of a count model over the SIDs on validation cases: no model is trained, and the test part is not
    looked at. Nothing is stored but the page.

    Example: genrecall sid compare --run runs/shop --html runs/shop/tokenisers.html
    """
    from genrecall import hardware
    from genrecall.catalog.store import Catalog
    from genrecall.errors import ConfigError
    from genrecall.recipes.tokenizers import page
    from genrecall.sid.behaviour import Behaviour
    from genrecall.sid.compare import compare, default_candidates
    from genrecall.sid.config import SidConfig
    from genrecall.sid.proxy import ProxyConfig
    from genrecall.telemetry import log
    from genrecall.text.embed import vectors_of

    loaded = Catalog.load(catalog or run / "catalog")
    item_vectors = vectors_of(vectors or run / "vectors", loaded)
    divided = split_config(split, repeats, tie_seed).divide(loaded) if len(loaded.events) else None
    behaviour = Behaviour.load(behaviour_vectors) if behaviour_vectors else None
    if behaviour is not None:
        behaviour.require(
            items=len(item_vectors), catalog=loaded.digest, histories=divided.train if divided is not None else None
        )
    base = SidConfig(levels=levels, codes=codes, collaborative_weight=collaborative_weight, seed=seed).on(device)
    every = default_candidates(base, events=divided is not None or behaviour is not None)
    chosen = [one for one in every if not only or any(word in one.name for word in only)]
    if not chosen:
        raise ConfigError(
            "no tokeniser has such a name",
            seen=", ".join(only or []), allowed="; ".join(one.name for one in every), fix="use a word of these",
        )  # fmt: skip
    rows = compare(item_vectors, chosen, split=divided, behaviour=behaviour, proxy=ProxyConfig(cases=cases))
    version = hardware.version_of("genrecall")
    report = page(
        rows,
        rule=divided.rule if divided is not None else "",
        footer=f"catalog {loaded.digest} · vectors {item_vectors.digest} · genrecall {version}",
    )
    for file, text in ((html, report.to_html), (markdown, report.to_markdown)):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text(), encoding="utf-8")
            log(f"wrote {file}")
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], ensure_ascii=False, indent=2))
    else:
        print(report.to_markdown())
