"""`genrecall eval`: every channel of a bundle under one protocol, in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import RUN, AsJson, BundlePath, CatalogPath, Device, Run


def command(
    run: Run = RUN,
    part: Annotated[str, typer.Option(help="test, or validation while choosing settings.")] = "test",
    cases: Annotated[int | None, typer.Option(min=1, help="Ask only so many cases, drawn at random.")] = None,
    history: Annotated[
        str | None, typer.Option(help="History items in lists: removed or kept. Default: the bundle's.")
    ] = None,
    device: Device = "auto",
    catalog: CatalogPath = None,
    bundle: BundlePath = None,
    out: Annotated[Path | None, typer.Option(help="Directory for eval.json, .md and .html. Default: RUN.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank the whole catalog for every case with every channel; print metrics with 95% intervals.

    Example: genrecall eval --run runs/shop
    """
    from genrecall.bundle.load import Recommender
    from genrecall.catalog.store import Catalog
    from genrecall.errors import ConfigError
    from genrecall.eval.report import evaluation_report
    from genrecall.recipes.stages import evaluate_bundle

    if part not in ("test", "validation"):
        raise ConfigError(
            "unknown part of the split", seen=part, allowed="test, validation", fix="choose another --part"
        )
    directory = out or run
    directory.mkdir(parents=True, exist_ok=True)
    loaded = Catalog.load(catalog or run / "catalog")
    shop = Recommender.load(bundle or run / "bundle", device=device)
    evaluation = evaluate_bundle(shop, loaded, part=part, cases=cases, history=history)
    report = evaluation_report(evaluation)
    (directory / "eval.json").write_text(json.dumps({"bundle": shop.digest, **evaluation.to_dict()}, indent=2))
    (directory / "eval.md").write_text(report.to_markdown(), encoding="utf-8")
    (directory / "eval.html").write_text(report.to_html(), encoding="utf-8")
    if as_json:
        print(json.dumps({"bundle": shop.digest, **evaluation.to_dict()}, indent=2))
    else:
        print(report.to_markdown())
        print(f"written: {directory / 'eval.html'}")
