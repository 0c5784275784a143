"""From a source to checked tables and a report: the part of an import that writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrecall.catalog.config import ImportConfig
from genrecall.catalog.events import KINDS, Events
from genrecall.catalog.items import Items
from genrecall.catalog.kcore import k_core, restrict
from genrecall.catalog.log import take_events
from genrecall.catalog.report import Findings, ValidationReport
from genrecall.catalog.sources.source import Source
from genrecall.catalog.tables import take_items, take_pairs, take_queries, take_users
from genrecall.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Intake:
    """What came in."""

    items: Items
    events: Events
    users: pa.Table | None
    queries: pa.Table | None
    query_items: pa.Table | None
    report: ValidationReport


def take_in(source: Source, config: ImportConfig, findings: Findings | None = None) -> Intake:
    """Read, check, filter and count everything; raises DataError for input that cannot be used at all.

    Args:
        source: what to read.
        config: settings.
        findings: what was found already, when the source was made.
    """
    source = source.renamed(config.columns)
    findings = findings or Findings()
    findings.add("unused_file", len(source.unused_files), source.unused_files)
    findings.add("unused_column", len(source.unused_columns), source.unused_columns)
    items = take_items(
        source.items,
        findings,
        first_of_duplicates=config.first_of_duplicate_items,
        drop_textless=config.drop_textless,
    )
    users = take_users(source.users, findings) if source.users else None
    queries = take_queries(source.queries, findings) if source.queries else None
    pairs = take_pairs(source.query_items, items, queries, findings) if source.query_items else None
    counts = {"items read": len(items)}
    if source.events is not None:
        events, read = take_events(source.events, items, config, findings)
        counts |= {"events read": read, "users read": events.num_users}
    else:
        events = _no_events()
        findings.add("no_events", 1)
    if config.drop_textless and items.textless.any():
        items, events, pairs = _without_textless(items, events, pairs, findings)
    if users is not None:
        events = _with_silent_users(events, users, findings)
    if config.k_core:
        items, events, users, pairs = _filter(config.k_core, items, events, users, pairs, findings)
    _report_silence(items, events, findings)
    counts |= {"items": len(items), "users": events.num_users, "events": len(events)}
    by_kind = np.bincount(events.kind, minlength=len(KINDS))
    counts |= {f"{name} events": int(number) for name, number in zip(KINDS, by_kind, strict=True) if number}
    counts |= {name: table.num_rows for name, table in (("queries", queries), ("query-item pairs", pairs)) if table}
    files = {name: stream.path.name for name, stream in source.streams.items()}
    report = findings.report(source.name, files, counts)
    return Intake(items=items, events=events, users=users, queries=queries, query_items=pairs, report=report)


def _no_events() -> Events:
    return Events(
        user=np.empty(0, np.int32),
        item=np.empty(0, np.int32),
        time=np.empty(0, np.int64),
        kind=np.empty(0, np.uint8),
        user_ids=[],
        timed=False,
    )


def _with_silent_users(events: Events, users: pa.Table, findings: Findings) -> Events:
    """With the users who have a profile but no events at the end of the numbering."""
    acting = pa.array(events.user_ids, pa.string())
    profiled = users["user_id"].combine_chunks()
    strangers = acting.filter(pc.invert(pc.is_in(acting, value_set=profiled)))
    findings.add("user_without_profile", len(strangers), strangers.slice(0, 5).to_pylist())
    silent = profiled.filter(pc.invert(pc.is_in(profiled, value_set=acting))).to_pylist()
    return replace(events, user_ids=[*events.user_ids, *silent])


def _without_textless(
    items: Items, events: Events, pairs: pa.Table | None, findings: Findings
) -> tuple[Items, Events, pa.Table | None]:
    """Leave out items without text, their events, and users who did nothing else."""
    kept = ~items.textless
    on_kept = np.append(kept, True)[events.item]  # a query without item stays
    findings.add("textless_event", int(np.count_nonzero(~on_kept)))
    if not kept.any() or (len(events) and not on_kept.any()):
        raise DataError(
            "nothing is left without the items that have no text",
            seen=f"{np.count_nonzero(~kept):,} of {len(items):,} items are empty in {', '.join(items.text_columns)}",
            allowed="some items with text, and events on them",
            fix="map a column that holds text: --map title=COLUMN, or leave out --drop-textless",
        )
    if len(events):
        events = restrict(events, np.bincount(events.user[on_kept], minlength=events.num_users) > 0, kept)
    items = items.select(pa.array(np.flatnonzero(kept)))
    return items, events, _on(items, pairs)


def _filter(
    k: int, items: Items, events: Events, users: pa.Table | None, pairs: pa.Table | None, findings: Findings
) -> tuple[Items, Events, pa.Table | None, pa.Table | None]:
    """Apply the k-core to every table."""
    kept_users, kept_items, rounds = k_core(events, len(items), k)
    if not kept_users.any():
        raise DataError(
            f"nothing is left of the {k}-core",
            seen=f"{events.num_users:,} users, {len(items):,} items, {len(events):,} events",
            allowed="a k that some users and items reach",
            fix="give a smaller --k-core, or 0 to keep everything",
        )
    before = len(events)
    lost_users, lost_items = (int(np.count_nonzero(~kept)) for kept in (kept_users, kept_items))
    events = restrict(events, kept_users, kept_items)
    items = items.select(pa.array(np.flatnonzero(kept_items)))
    summary = f"{lost_users:,} users, {lost_items:,} items and {before - len(events):,} events in {rounds} rounds"
    findings.add("k_core", lost_users + lost_items, [summary])
    if users is not None:
        users = users.filter(pc.is_in(users["user_id"], value_set=pa.array(events.user_ids, pa.string())))
    return items, events, users, _on(items, pairs)


def _on(items: Items, pairs: pa.Table | None) -> pa.Table | None:
    """The query-item pairs on these items."""
    if pairs is None:
        return None
    return pairs.filter(pc.is_in(pairs["item_id"], value_set=items.table["item_id"].combine_chunks()))


def _report_silence(items: Items, events: Events, findings: Findings) -> None:
    lengths = np.bincount(events.user, minlength=events.num_users)
    silent, single = np.flatnonzero(lengths == 0), np.flatnonzero(lengths == 1)
    findings.add("single_event_user", len(single), (events.user_ids[user] for user in single))
    findings.add("user_without_events", len(silent), (events.user_ids[user] for user in silent))
    if len(events):
        unseen = np.flatnonzero(np.bincount(events.item[events.item >= 0], minlength=len(items)) == 0)
        findings.add("item_without_events", len(unseen), items.table["item_id"].take(pa.array(unseen[:5])).to_pylist())
