"""Amazon reviews, releases of 2014, 2018 and 2023: a file of reviews and a file of metadata, a JSON object a line.

| | user | item | time | metadata |
| --- | --- | --- | --- | --- |
| 2014 | reviewerID | asin | unixReviewTime, s | JSON or Python-literal lines; categories: list of paths |
| 2018 | reviewerID | asin | unixReviewTime, s | JSON lines; category: list; price: text |
| 2023 | user_id | parent_asin | timestamp, ms | JSON lines; store, categories: list, description: list |

Sources: McAuley, Targett, Shi & van den Hengel, SIGIR 2015; Ni, Li & McAuley, EMNLP 2019; Hou et al., arXiv:2403.03952.
A review is taken as a click-like event with its ``rating``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from genrecall.catalog.sources.lines import grouped, json_stream, objects, open_bytes
from genrecall.catalog.sources.parquet import stream as open_table
from genrecall.catalog.sources.source import Source, Stream
from genrecall.errors import DataError
from genrecall.telemetry import track

_BATCH_ROWS = 50_000
_PEEK_LINES = 200  # the columns that are read stand in every review
_OLD = {"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall"}
_NEW = {"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating"}
_ITEM_COLUMNS = ("item_id", "title", "brand", "categories", "description", "features", "price")


def source(items: Path, events: Path | None) -> Source:
    """Open a metadata file and a file of reviews."""
    return Source(name="amazon", items=_metadata(items), events=None if events is None else _reviews(events))


def looks_like(path: Path) -> bool:
    """Whether a file of JSON lines is one of these: its first object has an ``asin`` or ``parent_asin``."""
    first = next(objects(path, 1), {})
    return bool({"asin", "parent_asin"} & first.keys())


def _reviews(path: Path) -> Stream:
    first = next(objects(path, 1), {})
    names = _NEW if "parent_asin" in first else _OLD
    missing = [theirs for theirs in (names["user_id"], names["item_id"], names["timestamp"]) if theirs not in first]
    if missing:
        raise DataError(
            f"{path.name} is no file of Amazon reviews",
            seen=f"a first object without {', '.join(missing)}",
            allowed=f"{', '.join(_OLD.values())} (2014, 2018) or {', '.join(_NEW.values())} (2023)",
            fix="give the reviews with --events and the metadata with --items, or import with --source parquet",
        )
    raw = _loose_reviews(path) if _is_loose(path) else json_stream(path, _PEEK_LINES)
    stream = raw.renamed(names)
    if names is _OLD:
        return stream

    def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        for batch in stream.read(wanted):
            if "timestamp" in wanted:  # milliseconds in this release
                place = batch.schema.names.index("timestamp")
                seconds = pc.divide(batch["timestamp"].cast(pa.int64()), 1000)
                batch = batch.set_column(place, "timestamp", seconds)
            yield batch

    return Stream(path=path, columns=stream.columns, read=read)


def _is_loose(path: Path) -> bool:
    with open_bytes(path) as stream:
        return stream.readline().lstrip().startswith(b"{'")


def _loose_reviews(path: Path) -> Stream:
    columns = tuple(_OLD.values())

    def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        for rows in grouped(objects(path), _BATCH_ROWS):
            yield pa.RecordBatch.from_pydict({name: [row.get(name) for row in rows] for name in wanted})

    return Stream(path=path, columns=columns, read=read)


def _metadata(path: Path) -> Stream:
    if path.suffix in (".parquet", ".csv"):
        return open_table(path)

    def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        for rows in grouped(track(objects(path), f"items of {path.name}"), _BATCH_ROWS):
            texts = [_item(row) for row in rows]
            yield pa.RecordBatch.from_arrays(
                [pa.array([row[name] for row in texts], pa.string()) for name in wanted], names=list(wanted)
            )

    return Stream(path=path, columns=_ITEM_COLUMNS, read=read)


def _item(row: dict[str, Any]) -> dict[str, str | None]:
    """One item under our names; everything is text, the price is read from it later."""
    price = row.get("price")
    return {
        "item_id": row.get("parent_asin") or row.get("asin"),
        "title": _text(row.get("title"), " "),
        "brand": _text(row.get("brand") or row.get("store"), ", "),
        "categories": _path(row.get("categories") or row.get("category")),
        "description": _text(row.get("description"), "\n"),
        "features": _text(row.get("features") or row.get("feature"), "\n"),
        "price": None if price is None else str(price),
    }


def _text(value: Any, separator: str) -> str | None:
    if isinstance(value, list):
        return separator.join(str(part) for part in value if part) or None
    return None if value is None else str(value)


def _path(value: Any) -> str | None:
    """Levels joined by `` > ``, several paths by `` | ``."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return " | ".join(filter(None, (_path(path) for path in value)))
    return _text(value, " > ")
