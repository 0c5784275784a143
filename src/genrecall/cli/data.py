"""`genrecall data`: bring items and events in, and say what is odd about them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrecall.cli.options import RUN, AsJson, Force, Run

if TYPE_CHECKING:
    from genrecall.catalog.config import ImportConfig
    from genrecall.catalog.sources.source import Source

app = typer.Typer(help="Validate and import items, events, users and queries.", no_args_is_help=True)

Directory = Annotated[
    Path | None,
    typer.Argument(help="Folder with items.*, events.* or interactions.*, users.*, …, or a MovieLens folder."),
]
Items = Annotated[Path | None, typer.Option(help="Items: item_id, title, further columns.")]
Events = Annotated[Path | None, typer.Option(help="Events: user_id, item_id, timestamp or order, event.")]
Users = Annotated[Path | None, typer.Option(help="Profiles: user_id and columns such as country.")]
Queries = Annotated[Path | None, typer.Option(help="Search queries: query_id, query.")]
QueryItems = Annotated[Path | None, typer.Option(help="Answers to queries: query_id, item_id.")]
SourceName = Annotated[str, typer.Option("--source", help="auto, parquet (also CSV, JSONL), amazon or movielens.")]
Map = Annotated[
    list[str] | None, typer.Option("--map", help="Take our column from another, as title=keywords; repeatable.")
]
TimeUnit = Annotated[str, typer.Option(help="Unit of numeric timestamps: s, ms, us or ns.")]
EventDefault = Annotated[str, typer.Option(help="Kind of events without a column event.")]
KCore = Annotated[int, typer.Option(help="Keep users and items with at least this many events; 0 keeps all.")]
MinRating = Annotated[float | None, typer.Option(help="Keep events with at least this rating.")]
FirstItem = Annotated[bool, typer.Option("--first-item", help="Keep the first row of a repeated item_id.")]
DropTextless = Annotated[
    bool, typer.Option("--drop-textless", help="Leave out items without any text, and their events.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse input with any problem; notes may stay.")]


@app.command()
def validate(
    directory: Directory = None,
    items: Items = None,
    events: Events = None,
    users: Users = None,
    queries: Queries = None,
    query_items: QueryItems = None,
    source: SourceName = "auto",
    map_: Map = None,
    time_unit: TimeUnit = "s",
    event_default: EventDefault = "click",
    k_core: KCore = 0,
    min_rating: MinRating = None,
    first_item: FirstItem = False,
    drop_textless: DropTextless = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Read and check input as an import would; write nothing.

    Example: genrecall data validate --items items.parquet --events interactions.parquet
    """
    from genrecall.catalog.store import validate as check

    files = {"items": items, "events": events, "users": users, "queries": queries, "query_items": query_items}
    config = import_config(map_, time_unit, event_default, k_core, min_rating, first_item, drop_textless, strict=False)
    report = check(_source(directory, files, source), config)
    print(json.dumps(report.to_dict(), ensure_ascii=False) if as_json else report)
    if strict:
        report.require_clean()


@app.command("import")
def import_(
    directory: Directory = None,
    items: Items = None,
    events: Events = None,
    users: Users = None,
    queries: Queries = None,
    query_items: QueryItems = None,
    source: SourceName = "auto",
    map_: Map = None,
    time_unit: TimeUnit = "s",
    event_default: EventDefault = "click",
    k_core: KCore = 0,
    min_rating: MinRating = None,
    first_item: FirstItem = False,
    drop_textless: DropTextless = False,
    strict: Strict = False,
    run: Run = RUN,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/catalog.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Import items, events, users and queries as a catalog.

    Example: genrecall data import --items items.parquet --events interactions.parquet --run runs/shop
    """
    from genrecall.catalog.store import import_catalog, read_report
    from genrecall.telemetry import log

    files = {"items": items, "events": events, "users": users, "queries": queries, "query_items": query_items}
    config = import_config(map_, time_unit, event_default, k_core, min_rating, first_item, drop_textless, strict)
    path = out or run / "catalog"
    catalog = import_catalog(_source(directory, files, source), path, config, force=force)
    report = read_report(path)
    if as_json:
        print(json.dumps({"path": str(path), "digest": catalog.digest, "report": report.to_dict()}, ensure_ascii=False))
        return
    log(str(report))
    print(f"{path} {catalog.digest}")
    sys.stdout.flush()


def _source(directory: Path | None, files: dict[str, Path | None], name: str) -> Source:
    from genrecall.catalog.sources.open import open_source

    return open_source(directory, files={table: path for table, path in files.items() if path is not None}, name=name)


def import_config(
    pairs: list[str] | None,
    time_unit: str,
    event_default: str,
    k_core: int,
    min_rating: float | None,
    first_item: bool,
    drop_textless: bool,
    strict: bool,
) -> ImportConfig:
    """The settings that these options name.

    Raises:
        ConfigError: a ``--map`` that cannot be read, or settings that cannot be.
    """
    from genrecall.catalog.config import ImportConfig
    from genrecall.errors import ConfigError

    columns: dict[str, str] = {}
    for pair in pairs or []:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs) or ours in columns:
            raise ConfigError(
                "--map cannot be read",
                seen=pair,
                allowed="OUR_COLUMN=SOURCE_COLUMN, each of ours once",
                fix="for example --map title=keywords",
            )
        columns[ours] = theirs
    unit: Any = time_unit  # checked by ImportConfig
    return ImportConfig(
        columns=columns,
        event_default=event_default,
        time_unit=unit,
        k_core=k_core,
        min_rating=min_rating,
        first_of_duplicate_items=first_item,
        drop_textless=drop_textless,
        strict=strict,
    )
