"""The event log, read in batches into integer columns: 25 bytes an event, strings held once.

Peak memory is the integer columns (about three times, while they are sorted) plus the distinct user and session ids
plus one batch. Every row that is read is either kept or counted under exactly one reason.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrecall.catalog import columns
from genrecall.catalog.config import ImportConfig
from genrecall.catalog.events import KINDS, NO_ITEM, SPLITS, Events
from genrecall.catalog.items import Items
from genrecall.catalog.report import Findings
from genrecall.catalog.sources.source import Stream, empty
from genrecall.errors import DataError
from genrecall.telemetry import progress

KIND_NAMES = {
    **{name: name for name in KINDS},
    "view": "click",
    "pv": "click",
    "add_to_cart": "cart",
    "addtocart": "cart",
    "purchase": "order",
    "buy": "order",
    "transaction": "order",
    "impression": "exposure",
    "search": "query",
}
SPLIT_NAMES = {
    **{name: SPLITS.index("train") for name in ("train", "training", "history")},
    **{name: SPLITS.index("valid") for name in ("valid", "val", "validation", "dev")},
    **{name: SPLITS.index("test") for name in ("test", "eval", "evaluate")},
}
_USED = ("user_id", "item_id", "timestamp", "order", "event", "query", "session_id", "split", "rating")
_DAY_S = 86_400


class Numbering:
    """Numbers strings in the order they first appear, a batch at a time."""

    def __init__(self) -> None:
        self.known = pa.array([], pa.large_string())

    def encode(self, strings: pa.Array) -> np.ndarray:
        """int32 numbers of large_string values; −1 for null."""
        encoded = strings.dictionary_encode()
        distinct = encoded.dictionary
        numbers = pc.index_in(distinct, value_set=self.known)
        fresh = np.flatnonzero(numbers.is_null().to_numpy(zero_copy_only=False))
        codes = numbers.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
        codes[fresh] = len(self.known) + np.arange(len(fresh), dtype=np.int32)
        self.known = pa.concat_arrays([self.known, distinct.take(pa.array(fresh))])
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.append(codes, np.int32(-1))[places]


@dataclass
class _Log:
    """Columns so far."""

    parts: dict[str, list[np.ndarray]]
    users: Numbering
    sessions: Numbering
    texts: Numbering
    read: int = 0


def take_events(stream: Stream, items: Items, config: ImportConfig, findings: Findings) -> tuple[Events, int]:
    """Read and check the events; returns them sorted and without repeats, and how many rows were read."""
    timed = "timestamp" in stream.columns
    if not timed and "order" not in stream.columns:
        columns.require(stream.path, stream.columns, "timestamp", instead="order, numbers that rise with time")
    for name in ("user_id", "item_id"):
        columns.require(stream.path, stream.columns, name)
    clock_name = "timestamp" if timed else "order"
    hidden = {"order"} if timed else set()
    if config.min_rating is None:
        hidden.add("rating")
    else:
        columns.require(stream.path, stream.columns, "rating")
    wanted = [name for name in _USED if name in stream.columns and name not in hidden]
    rest = [f"{name} of {stream.path.name}" for name in stream.columns if name not in wanted]
    findings.add("unused_column", len(rest), rest)
    item_ids = items.table["item_id"].combine_chunks().cast(pa.large_string())
    log = _Log({}, Numbering(), Numbering(), Numbering())
    now = config.now if config.now is not None else int(clock.time())
    with progress("events", stream.num_rows) as bar:
        for batch in stream.batches(wanted):
            if batch.num_rows:
                _add(batch, log, stream, item_ids, clock_name, config, now + _DAY_S, findings)
                bar.advance(batch.num_rows)
    if not log.read:
        raise empty(stream.path)
    events = _sorted(log, timed, item_ids, findings)
    if not len(events):
        raise DataError(
            f"no event of {stream.path.name} can be used",
            seen=", ".join(f"{count:,} {name}" for name, count in findings.counts.items()),
            allowed="events of users on items of the items file",
            fix="mend what these counts name; most often both files do not use the same item ids",
        )
    return events, log.read


def _add(
    batch: pa.RecordBatch,
    log: _Log,
    stream: Stream,
    item_ids: pa.Array,
    clock_name: str,
    config: ImportConfig,
    latest: int,
    findings: Findings,
) -> None:
    """Turn one batch into integers; leave out and count what cannot be used."""
    path, untyped = stream.path, stream.untyped
    present = set(batch.schema.names)
    if clock_name == "timestamp":
        times = columns.seconds(batch["timestamp"], path, config.time_unit, untyped=untyped)
    else:
        times = columns.integers(batch["order"], path, "order", untyped=untyped)
    user_ids = columns.ids(batch["user_id"], path, "user_id")
    wanted_ids = columns.ids(batch["item_id"], path, "item_id")
    item = pc.index_in(wanted_ids, value_set=item_ids).fill_null(NO_ITEM).to_numpy(zero_copy_only=False)
    time = times.fill_null(0).to_numpy(zero_copy_only=False)
    kind = _kinds(batch, path, config, findings)
    no_item = _mask(wanted_ids.is_null())
    query = KINDS.index("query")
    alive = np.ones(batch.num_rows, bool)

    def leave_out(name: str, bad: np.ndarray) -> None:
        bad = bad & alive
        count = int(np.count_nonzero(bad))
        if count:
            rows = np.flatnonzero(bad)[: findings.wanted(name)]
            findings.add(name, count, (_example(batch, row, log.read) for row in rows))
            alive[bad] = False

    leave_out("event_without_user", _mask(user_ids.is_null()))
    leave_out("unknown_kind", kind < 0)
    leave_out("event_without_item", no_item & (kind != query))
    leave_out("unknown_item", (item < 0) & ~no_item)
    leave_out("event_without_time", _mask(times.is_null()))
    split = None
    if "split" in present:
        names = columns.text(batch["split"], path, "split")
        split = _named(names, lambda name: SPLIT_NAMES.get(name.strip().lower(), -1), -1)
        leave_out("unknown_split", split < 0)  # never guessed: held-out events must not train
    if clock_name == "timestamp":
        leave_out("future", time > latest)
    if config.min_rating is not None:
        ratings = columns.numbers(batch["rating"], path, "rating", untyped=untyped)
        leave_out("low_rating", ~(ratings.fill_null(np.nan).to_numpy(zero_copy_only=False) >= config.min_rating))
    keep = pa.array(alive)
    found: dict[str, np.ndarray] = {
        "user": log.users.encode(user_ids.filter(keep)),
        "item": item[alive].astype(np.int32),
        "time": time[alive],
        "kind": kind[alive].astype(np.uint8),
    }
    if "session_id" in present:
        found["session"] = log.sessions.encode(columns.ids(batch["session_id"], path, "session_id").filter(keep))
    if "query" in present:
        found["query"] = log.texts.encode(columns.text(batch["query"], path, "query").filter(keep))
    if split is not None:
        found["split"] = split[alive].astype(np.uint8)
    for name, values in found.items():
        log.parts.setdefault(name, []).append(values)
    log.read += batch.num_rows


def _kinds(batch: pa.RecordBatch, path: Path, config: ImportConfig, findings: Findings) -> np.ndarray:
    """int (E,) positions in KINDS, −1 where unknown; an empty value is the default kind."""
    default = KINDS.index(config.event_default)
    if "event" not in batch.schema.names:
        return np.full(batch.num_rows, default, np.int8)

    def code(name: str) -> int:
        known = KIND_NAMES.get(name.strip().lower())
        return KINDS.index(known) if known else -1

    names = columns.text(batch["event"], path, "event")
    for entry in pc.value_counts(names.drop_null()).to_pylist():
        known = KIND_NAMES.get(entry["values"].strip().lower())
        if known not in (None, entry["values"]):
            findings.add("renamed_kind", entry["counts"], [f"{entry['values']} is {known}"])
    return _named(names, code, default)


def _named(strings: pa.Array, code: Callable[[str], int], default: int) -> np.ndarray:
    """int8 codes of few distinct strings; null and the empty string are the default."""
    encoded = strings.dictionary_encode()
    codes = [code(name) if name else default for name in encoded.dictionary.to_pylist()]
    places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.array([*codes, default], np.int8)[places]


def _mask(column: pa.Array) -> np.ndarray:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=bool)


def _example(batch: pa.RecordBatch, row: int, before: int) -> str:
    values = {name: value for name, value in batch.slice(row, 1).to_pylist()[0].items() if value is not None}
    return f"row {before + int(row) + 1}: " + ", ".join(f"{name}={value}" for name, value in values.items())


def _sorted(log: _Log, timed: bool, item_ids: pa.Array, findings: Findings) -> Events:
    """Sort by (user, time) keeping the source's order on ties, and leave out repeats."""
    data: dict[str, np.ndarray] = {}
    for name in list(log.parts):
        data[name] = np.concatenate(log.parts.pop(name))
    user_ids = log.users.known.to_pylist()
    order = np.argsort(data["user"], kind="stable")
    users, times = data["user"][order], data["time"][order]
    back = np.flatnonzero((users[1:] == users[:-1]) & (times[1:] < times[:-1])) + 1
    findings.add("unsorted", len(back), (f"user {user_ids[users[at]]} at time {times[at]}" for at in back))
    if len(back):
        order = order[np.lexsort((times, users))]
    del users, times
    for name in data:
        data[name] = data[name][order]
    del order
    repeats = _repeats(data)

    def item_of(number: np.int32) -> str:
        return f"item {item_ids[int(number)]}, " if number >= 0 else ""

    where = np.flatnonzero(repeats)
    findings.add(
        "duplicate_event",
        len(where),
        (f"user {user_ids[data['user'][at]]}, {item_of(data['item'][at])}time {data['time'][at]}" for at in where),
    )
    if len(where):
        data = {name: column[~repeats] for name, column in data.items()}
    return Events(**data, user_ids=user_ids, timed=timed, query_texts=log.texts.known.to_pylist())


def _repeats(data: dict[str, np.ndarray]) -> np.ndarray:
    """bool (E,) events that repeat user, time, item, kind, session and query of an earlier row; input is sorted."""
    users, times = data["user"], data["time"]
    repeats = np.zeros(len(users), bool)
    if len(users) < 2:
        return repeats
    tie = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    tied = np.flatnonzero(np.append(tie, False) | np.append(False, tie))
    group = np.cumsum(np.append(True, ~tie))[tied]
    keys = [data[name][tied] for name in ("query", "session", "kind", "item") if name in data]
    order = np.lexsort((*keys, group))  # stable: among equals the source's first row comes first
    same = group[order][1:] == group[order][:-1]
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    repeats[tied[order[1:][same]]] = True
    return repeats
