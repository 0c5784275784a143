"""`genrecall run`: the whole way from files to tables, over several seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.data import (
    DropTextless,
    EventDefault,
    Events,
    FirstItem,
    Items,
    KCore,
    Map,
    MinRating,
    TimeUnit,
    Users,
    import_config,
)
from genrecall.cli.options import AsJson, Device, count_of


def command(
    recipe: Annotated[
        str | None,
        typer.Option(help="amazon_beauty, amazon_sports, amazon_office, online_retail or movielens_100k."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder that holds the recipe's data set.")] = None,
    items: Items = None,
    events: Events = None,
    users: Users = None,
    map_: Map = None,
    time_unit: TimeUnit = "s",
    event_default: EventDefault = "click",
    k_core: KCore = 0,
    min_rating: MinRating = None,
    first_item: FirstItem = False,
    drop_textless: DropTextless = False,
    out: Annotated[Path, typer.Option(help="Run directory; what is in it and current is not done again.")] = Path(
        "runs/study"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: each makes SIDs and models anew.")] = 1,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    final: Annotated[bool, typer.Option("--final", help="Read the test part, once a seed; recorded.")] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Train once more on training and validation events, and test that, too.")
    ] = False,
    cases: Annotated[int | None, typer.Option(min=1, help="Judge at most so many cases, drawn at random.")] = None,
    beams: Annotated[str, typer.Option(help="Widths for the curve of recall against beam, as 5,20,50,100,300.")] = "",
    beside: Annotated[str, typer.Option(help="Baselines to train and judge without fusing them: hstu,two_tower.")] = "",
    prefer: Annotated[
        bool, typer.Option("--prefer", help="Train on preferences over the own beams, too; kept where it validates.")
    ] = False,
    small: Annotated[
        bool | None, typer.Option("--small/--large", help="Sizes for two CPU cores or for a GPU. Default: by device.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Import, embed, make SIDs, train, fuse and judge, with settings that suit the data; killed runs go on.

    Example: genrecall run --items items.parquet --events events.parquet --out runs/shop
    """
    from dataclasses import replace

    from genrecall.recipes import baselines, named
    from genrecall.recipes.run import prepare, run
    from genrecall.train.preference import PreferenceConfig

    widths = [count_of(width) for width in beams.split(",") if width]
    besides = list(dict.fromkeys(name.strip() for name in beside.split(",") if name.strip()))
    baselines.require_known(besides)
    config = import_config(map_, time_unit, event_default, k_core, min_rating, first_item, drop_textless, strict=False)
    chosen = named.resolve(recipe, data, {"items": items, "events": events, "users": users}, out, config)
    catalog, vectors = prepare(chosen, out)
    study = named.study_of(chosen, catalog, small=small, device=device)
    study = replace(study, preference=PreferenceConfig() if prefer else None)
    outcome = run(
        catalog, vectors, study, out,
        seeds=range(first_seed, first_seed + seeds), final=final, refit_too=refit, cases=cases, beams=widths,
        beside=besides,
    )  # fmt: skip
    if as_json:
        print(json.dumps(json.loads((out / "report.json").read_text(encoding="utf-8")), ensure_ascii=False, indent=2))
        return
    print(outcome.page.to_markdown())
    print(f"written: {out / 'report.html'}")
