"""`genrecall rank`: train a joint ranker on a bundle's lists; judge it beside fusion, sparse and dense alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genrecall.cli.options import RUN, AsJson, BundlePath, CatalogPath, Device, Force, Run

app = typer.Typer(help="Order candidates by sparse features and the language model together.", no_args_is_help=True)
_BESIDE = ("sparse", "dense")


@app.command()
def train(
    run: Run = RUN,
    cases: Annotated[int, typer.Option(min=1, help="Validation cases to learn from, at most.")] = 20_000,
    candidates: Annotated[int, typer.Option(min=2, help="Candidates of a list.")] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="Over the lists, at most.")] = 12,
    warm_events: Annotated[
        int, typer.Option(min=0, help="Training events that warm the tables up; 0: none.")
    ] = 100_000,
    beside: Annotated[bool, typer.Option("--beside/--alone", help="Train sparse and dense alone, too.")] = True,
    half: Annotated[bool, typer.Option("--half", help="Store tables as float16.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Device = "auto",
    catalog: CatalogPath = None,
    bundle: BundlePath = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/ranker.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Learn to order the bundle's fused lists, on validation cases that neither channels nor generator were trained on.

    Writes RUN/ranker, and with --beside RUN/ranker-joint, RUN/ranker-sparse and RUN/ranker-dense for comparison.
    Then: genrecall export --run RUN --ranker RUN/ranker

    Example: genrecall rank train --run runs/quickstart
    """
    from genrecall.catalog.store import Catalog
    from genrecall.rank.fit import FitConfig
    from genrecall.recipes.rank_lists import Shop
    from genrecall.recipes.ranking import RankRecipe, train_ranker
    from genrecall.telemetry import log
    from genrecall.text.embed import vectors_of

    loaded = Catalog.load(catalog or run / "catalog")
    vectors = vectors_of(run / "vectors", loaded) if (run / "vectors").is_dir() else None
    shop = Shop.open(bundle or run / "bundle", loaded, device=device)
    if vectors is None:
        log(f"no vectors in {run}: the ranker reads the items' SID scores, but not their texts")
    target = out or run / "ranker"
    blocks: list[tuple[Any, Path]] = [("joint+recall", target)]
    if beside:
        blocks += [(name, target.with_name(f"{target.name}-{name}")) for name in ("joint", *_BESIDE)]
    found = []
    for name, path in blocks:
        recipe = RankRecipe(
            blocks=name,
            candidates=candidates,
            cases=cases,
            warm_events=warm_events,
            fit=FitConfig(epochs=epochs, half=half, seed=seed, device=device),
        )
        artifact = train_ranker(shop, vectors, recipe, path, target.with_name("rank-lists"), force=force)
        held = artifact.manifest.facts["report"]["held out"]
        found.append({"blocks": name, "path": str(path), "digest": artifact.digest, "held out": held})
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for entry in found:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in entry["held out"].items() if name != "requests")
        print(f"{entry['blocks']:13} {figures}  {entry['path']}")


@app.command(name="eval")
def evaluate(
    run: Run = RUN,
    final: Annotated[
        bool, typer.Option("--final", help="Ask the test part, once, for figures to report; each reading is recorded.")
    ] = False,
    cases: Annotated[int | None, typer.Option(min=1, help="Ask only so many cases, drawn at random.")] = None,
    device: Device = "auto",
    catalog: CatalogPath = None,
    bundle: BundlePath = None,
    ranker: Annotated[Path | None, typer.Option(help="Ranker. Default: RUN/ranker.")] = None,
    as_json: AsJson = False,
) -> None:
    """Order the same lists by fusion alone and by every ranker; print metrics, intervals and paired comparisons.

    Without --final the validation cases of users whom no fit has seen are asked (epochs were chosen by them).

    Example: genrecall rank eval --run runs/quickstart
    """
    from genrecall.catalog.store import Catalog
    from genrecall.eval.lock import Final
    from genrecall.eval.report import evaluation_report
    from genrecall.eval.store import save
    from genrecall.rank.fit import FitConfig
    from genrecall.recipes.rank_eval import held_out_cases, judge_rankers, opened
    from genrecall.recipes.rank_lists import Shop, sampled

    shop = Shop.open(bundle or run / "bundle", Catalog.load(catalog or run / "catalog"), device=device)
    target = ranker or run / "ranker"
    main, recipe = opened(target, shop, device)
    rankers = {"joint+recall": main}
    for name in ("joint", *_BESIDE):
        path = target.with_name(f"{target.name}-{name}")
        if path.is_dir():
            rankers[name], _ = opened(path, shop, device)
    leave = Final(run=run, purpose=f"genrecall rank eval --run {run}") if final else None
    asked = shop.split.test if final else held_out_cases(shop, recipe["cases"], FitConfig(**recipe["fit"]))
    asked = sampled(asked, cases or len(asked))
    lists = run / "rank-eval" / f"{asked.part}.parquet"
    evaluation, pointwise = judge_rankers(shop, rankers, asked, lists, k=recipe["candidates"], final=leave)
    figures = save(evaluation, run / "rank-eval" / "eval.json", {"bundle": shop.bundle.digest})
    if as_json:
        print(json.dumps({**figures, "pointwise": pointwise}, indent=2, ensure_ascii=False))
        return
    page = evaluation_report(evaluation, title="Ranking", channel="joint+recall", footer=f"ranker {main.digest}")
    print(page.to_markdown())
    for name, values in pointwise.items():
        print(f"{name:13} " + "  ".join(f"{metric} {value:.4f}" for metric, value in values.items()))


@app.command()
def delta(
    lists: Annotated[
        Path, typer.Argument(help="Parquet of new requests, as genrecall.rank.lists.ListWriter writes it.")
    ],
    run: Run = RUN,
    after: Annotated[list[Path] | None, typer.Option(help="Earlier deltas, oldest first; repeatable.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the lists.")] = 1,
    ranker: Annotated[Path | None, typer.Option(help="Ranker. Default: RUN/ranker.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/ranker-delta-N.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Let the ranker's tables learn on from new lists, and write the rows that changed as the next delta.

    Example: genrecall rank delta runs/shop/new-lists.parquet --run runs/shop
    """
    import torch

    from genrecall.artifacts import open_artifact
    from genrecall.rank.delta import read_delta, write_delta
    from genrecall.rank.lists import ListReader
    from genrecall.rank.score import Ranker
    from genrecall.rank.update import UpdateConfig, update_tables

    artifact = open_artifact(ranker or run / "ranker", kind="ranker")
    found = Ranker.load(artifact.path, device=device, digest=artifact.digest)
    shapes = {name: (len(found.tables.of(name)), found.tables.of(name).shape[1]) for name in found.tables.names}
    for path in after or []:
        earlier = read_delta(path, ranker=found.digest, version=found.version, shapes=shapes)
        changes = {name: (torch.from_numpy(r), torch.from_numpy(v)) for name, (r, v) in earlier.changes.items()}
        found.tables.write(changes, earlier.version)
    made = update_tables(found, ListReader(lists), UpdateConfig(epochs=epochs))
    stored = write_delta(made, out or run / f"ranker-delta-{made.version}")
    told = {"path": str(stored.path), "version": made.version, "rows": made.rows, "digest": stored.digest}
    print(json.dumps(told) if as_json else "delta  " + "  ".join(f"{name} {value}" for name, value in told.items()))


@app.command()
def apply(
    delta: Annotated[Path, typer.Argument(help="Delta directory.")],
    state: Annotated[Path, typer.Option("--state", help="Of the running service.")],
) -> None:
    """Let the active bundle's ranker take in the next delta; requests after it are scored with it.

    Example: genrecall rank apply runs/shop/ranker-delta-1 --state runs/shop/state
    """
    from genrecall.serve.admin_client import ask

    print(json.dumps(ask(state, "POST", "/admin/ranker/delta", {"delta": str(delta.resolve())})))
