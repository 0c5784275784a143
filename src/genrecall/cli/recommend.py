"""`genrecall recommend`: which items next, for a user of the catalog or for a history typed here."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrecall.cli.options import RUN, AsJson, BundlePath, CatalogPath, Device, Run

if TYPE_CHECKING:
    import numpy as np

    from genrecall.bundle.load import Recommendations, Recommender

_SHOWN_HISTORY = 10
_SHOWN_BEAMS = 8


def command(
    run: Run = RUN,
    user: Annotated[str | None, typer.Option("--user", "-u", help="A user of the catalog.")] = None,
    history: Annotated[list[str] | None, typer.Option("--history", help="Item id, oldest first; repeatable.")] = None,
    profile: Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE; repeatable.")] = None,
    search: Annotated[str | None, typer.Option(help="A search text, for models that were trained on searches.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    with_seen: Annotated[bool, typer.Option("--with-seen", help="Also recommend items of the history.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the beams of every level.")] = False,
    device: Device = "auto",
    catalog: CatalogPath = None,
    bundle: BundlePath = None,
    as_json: AsJson = False,
) -> None:
    """Print the history's titles and the recommended items with SID and score.

    Example: genrecall recommend --run runs/shop --user u7 -k 5
    """
    from genrecall.bundle.load import Recommender

    _require_one(user, history, profile, search)
    shop = Recommender.load(bundle or run / "bundle", device=device)
    _require_read(shop, search)
    known = _parse_profile(profile or [])
    times = None
    notes: list[str] = []
    if user is not None:
        item_ids, times, stored, notes = _of_user(catalog or run / "catalog", user, shop)
        known = {**stored, **known}
    else:
        item_ids = history or []
        _require_items(shop, item_ids)
    answer = shop.recommend(
        item_ids, times=times, profile=known, search=search, k=k, exclude_seen=not with_seen, explain=explain
    )
    notes += answer.notes
    if as_json:
        print(json.dumps(_to_json(shop, item_ids, known, answer, notes), ensure_ascii=False, indent=2))
        return
    show(shop, item_ids, known, answer, notes)
    if explain and answer.answer is not None:
        _show_beams(shop, answer)


def show(
    shop: Recommender, item_ids: Sequence[str], profile: dict[str, str], answer: Recommendations, notes: Sequence[str]
) -> None:
    """Print one history and its recommendations."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if profile:
        console.print("profile: " + escape(", ".join(f"{name} {value}" for name, value in profile.items())))
    console.print(
        f"history: {len(item_ids)} items" + (f", the last {_SHOWN_HISTORY}:" if len(item_ids) > _SHOWN_HISTORY else "")
    )
    for item_id in item_ids[-_SHOWN_HISTORY:]:
        index = shop.items.index.get(item_id)
        console.print(
            f"  {escape(item_id)}  {escape(shop.items.titles[index]) if index is not None else '(not in this bundle)'}"
        )
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    table = Table(
        "", "item", "title", "SID", "score", box=None, title=f"{answer.channel} answers", title_justify="left"
    )
    for rank, item in enumerate(answer.items, 1):
        table.add_row(str(rank), escape(item.item_id), escape(item.title), escape(item.sid), f"{item.score:.3f}")
    console.print(table)


def _show_beams(shop: Recommender, answer: Recommendations) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.tree import Tree

    assert answer.answer is not None
    tree = Tree("the beam, level by level (score = Σ log p over the codes so far)")
    for level in answer.answer.levels or ():
        branch = tree.add(f"level {level.level}: {len(level.beams)} beams")
        for beam in level.beams[:_SHOWN_BEAMS]:
            follow = f"{beam.children} valid codes follow, {beam.pruned} pruned" if beam.children else "complete"
            branch.add(escape(f"{shop.table.space.format(beam.prefix)}  {beam.score:.3f}  {follow}"))
        if len(level.beams) > _SHOWN_BEAMS:
            branch.add(f"… and {len(level.beams) - _SHOWN_BEAMS} more")
    Console(highlight=False).print(tree)


def _to_json(
    shop: Recommender, item_ids: Sequence[str], profile: dict[str, str], answer: Recommendations, notes: Sequence[str]
) -> dict[str, Any]:
    titles, index = shop.items.titles, shop.items.index
    found: dict[str, Any] = {
        "bundle": shop.digest,
        "channel": answer.channel,
        "profile": profile,
        "history": [{"item_id": i, "title": titles[index[i]] if i in index else None} for i in item_ids],
        "items": [asdict(item) for item in answer.items],
        "notes": list(notes),
    }
    if answer.answer is not None and answer.answer.levels is not None:
        found["levels"] = [
            [{**asdict(beam), "prefix": shop.table.space.format(beam.prefix)} for beam in level.beams]
            for level in answer.answer.levels
        ]
    return found


def _of_user(
    path: Path, user: str, shop: Recommender
) -> tuple[list[str], np.ndarray | None, dict[str, str], list[str]]:
    """History (as the model was trained to read it), times, profile and notes of a user of the catalog."""
    from genrecall.catalog.store import Catalog

    catalog = Catalog.load(path)
    index = catalog.user_index.get(user)
    if index is None:
        return [], None, {}, [f"unknown user {user}"]
    histories = catalog.events.histories(shop.split["repeats"], shop.split["tie_seed"])
    items = [catalog.items.ids[item] for item in histories.of(index)]
    return items, histories.times_of(index) if histories.timed else None, catalog.profile_of(index), []


def _require_one(
    user: str | None, history: Sequence[str] | None, profile: Sequence[str] | None, search: str | None
) -> None:
    from genrecall.errors import ConfigError

    if (user is None and not history and not profile and not search) or (user is not None and history):
        raise ConfigError(
            "it is not clear for whom to recommend",
            seen="both --user and --history" if user is not None else "no --user, --history, --profile or --search",
            allowed="--user ID, or --history ITEM (repeatable), or --profile COLUMN=VALUE, or --search TEXT",
            fix="for example: genrecall recommend --history ITEM1 --history ITEM2",
        )


def _require_read(shop: Recommender, search: str | None) -> None:
    from genrecall.errors import ConfigError

    if search and not shop.searches:
        raise ConfigError(
            "this bundle's model was not trained on searches",
            seen=search,
            allowed="--user, --history and --profile",
            fix="train with searches (--tasks of `genrecall train`), or leave out --search",
        )
    if search and not shop.reads_search(search):
        raise ConfigError(
            "this bundle's model cannot read the search",
            seen=search,
            allowed="words that a model trained on searches knows",
            fix="use other words",
        )


def _require_items(shop: Recommender, item_ids: Sequence[str]) -> None:
    from genrecall.errors import DataError

    unknown = [item for item in item_ids if item not in shop.items.index]
    if unknown:
        close = difflib.get_close_matches(unknown[0], shop.items.ids, n=3)
        raise DataError(
            "an item of the history is not in this bundle",
            seen=", ".join(unknown),
            allowed=f"the bundle's {len(shop.items)} item ids",
            fix=f"did you mean {', '.join(close)}?" if close else "correct the id",
        )


def _parse_profile(pairs: Sequence[str]) -> dict[str, str]:
    from genrecall.errors import ConfigError

    known = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise ConfigError(
                "--profile cannot be read",
                seen=pair,
                allowed="COLUMN=VALUE",
                fix="for example --profile country=France",
            )
        known[name] = value
    return known
