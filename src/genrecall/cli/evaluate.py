"""`genrecall eval` and `genrecall report`: every channel of a bundle under one protocol; several runs in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrecall.cli.options import RUN, AsJson, BundlePath, CatalogPath, Device, Run

if TYPE_CHECKING:
    from genrecall.eval.costs import Cost
    from genrecall.eval.document import Report, Section


def command(
    run: Run = RUN,
    final: Annotated[
        bool, typer.Option("--final", help="Ask the test part, once, for figures to report; each reading is recorded.")
    ] = False,
    cases: Annotated[int | None, typer.Option(min=1, help="Ask only so many cases, drawn at random.")] = None,
    history: Annotated[
        str | None, typer.Option(help="History items in lists: removed or kept. Default: the bundle's.")
    ] = None,
    device: Device = "auto",
    catalog: CatalogPath = None,
    bundle: BundlePath = None,
    out: Annotated[Path | None, typer.Option(help="Directory for eval.json, .npz, .md, .html. Default: RUN.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank the whole catalog for every validation case with every channel; print metrics with 95% intervals.

    The test part is locked unless --final is given; RUN/test-readings.jsonl keeps a record of every reading.

    Example: genrecall eval --run runs/shop --final
    """
    from genrecall.bundle.load import Recommender
    from genrecall.catalog.store import Catalog
    from genrecall.eval.lock import Final
    from genrecall.eval.report import evaluation_report
    from genrecall.eval.store import NAME, save
    from genrecall.recipes.stages import evaluate_bundle

    directory, shipped = out or run, bundle or run / "bundle"
    directory.mkdir(parents=True, exist_ok=True)
    loaded = Catalog.load(catalog or run / "catalog")
    shop = Recommender.load(shipped, device=device)
    leave = Final(run=run, purpose=f"genrecall eval --run {run}") if final else None
    evaluation = evaluate_bundle(shop, loaded, final=leave, cases=cases, history=history)
    costs, training = _made(shipped)
    page = evaluation_report(evaluation, costs=costs, extra=training, footer=f"bundle {shop.digest}")
    _tell(page, save(evaluation, directory / NAME, {"bundle": shop.digest}), directory / NAME, as_json)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or their eval.json: one, or one a seed.")],
    channel: Annotated[str, typer.Option(help="Compare this channel with the others.")] = "generative",
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Evaluation",
    out: Annotated[Path | None, typer.Option(help="Directory for report.json, .npz, .md, .html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Merge evaluations that differ in their seed: mean ± sd, intervals, paired comparisons corrected after Holm.

    Example: genrecall report runs/seed0 runs/seed1 runs/seed2 --out runs/report
    """
    from genrecall.eval.report import evaluation_report
    from genrecall.eval.seeds import merge_files
    from genrecall.eval.store import save

    evaluation = merge_files(runs)
    page = evaluation_report(evaluation, title=title, channel=channel)
    if out is None:
        _tell(page, evaluation.to_dict(), None, as_json)
        return
    out.mkdir(parents=True, exist_ok=True)
    _tell(page, save(evaluation, out / "report.json"), out / "report.json", as_json)


def _tell(page: Report, figures: dict[str, Any], file: Path | None, as_json: bool) -> None:
    """Write the page beside the figures, where they have a file, and print one of them."""
    if file is not None:
        file.with_suffix(".md").write_text(page.to_markdown(), encoding="utf-8")
        file.with_suffix(".html").write_text(page.to_html(), encoding="utf-8")
    if as_json:
        print(json.dumps(figures, indent=2, ensure_ascii=False))
        return
    print(page.to_markdown())
    if file is not None:
        print(f"written: {file.with_suffix('.html')}")


def _made(bundle: Path) -> tuple[dict[str, Cost], list[Section]]:
    """What the generative channel's training took, and its curve, where the bundle tells."""
    from genrecall.artifacts import open_artifact
    from genrecall.eval.costs import Cost, training_section

    artifact = open_artifact(bundle, kind="bundle", verify=False)
    facts = artifact.manifest.facts["training"][0]
    metrics = artifact.path / "model" / "metrics.jsonl"
    if not metrics.exists():
        return {}, []
    return {"generative": Cost.of_model(artifact.path / "model", facts)}, [training_section(metrics, facts)]
