"""Names and types of input columns: the checks that turn a foreign column into ours or say why not."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrecall.errors import DataError

TimeUnit = Literal["s", "ms", "us", "ns"]
TICKS: dict[str, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Seconds above this lie after the year 5138; milliseconds below it before March 1973. So magnitude tells the unit.
_LATEST_S = 10**11
_DATES = (19_000_101, 21_001_231)  # as seconds, all of these lie between August and September 1970
_FARTHEST = float(2**62)  # floats beyond have no place in int64; they count as this far in the future or past


def require(
    path: Path, columns: Collection[str], name: str, *, candidates: Collection[str] = (), instead: str = ""
) -> None:
    """Refuse a table without column ``name``; ``candidates`` might be mapped to it, ``instead`` would do as well."""
    if name in columns:
        return
    best = next(iter(candidates), "COLUMN")
    raise DataError(
        f"{path.name} has no column {name}",
        seen=f"columns {', '.join(columns)}",
        allowed=f"a column {name}, or another column mapped to it" + (f"; or {instead}" if instead else ""),
        fix=f"add the column, or map one: --map {name}={best}",
    )


def wrong_type(path: Path, name: str, seen: object, allowed: str, fix: str = "") -> DataError:
    """The error for a column that cannot be what its name says."""
    return DataError(
        f"column {name} of {path.name} has the wrong type",
        seen=seen,
        allowed=allowed,
        fix=fix or f"write the column with that type, or map another one: --map {name}=COLUMN",
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether this is any of Arrow's string types, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def ids(column: pa.Array, path: Path, name: str) -> pa.Array:
    """large_string ids out of strings or integers; empty ids become null."""
    if not (is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise wrong_type(path, name, column.type, "strings or integers")
    strings = column.cast(pa.large_string())
    return pc.if_else(pc.equal(strings, ""), pa.scalar(None, pa.large_string()), strings)


def text(column: pa.Array, path: Path, name: str) -> pa.Array:
    """large_string text; null stays null."""
    if not (is_text(column.type) or pa.types.is_null(column.type)):
        raise wrong_type(path, name, column.type, "strings")
    return column.cast(pa.large_string())


def integers(column: pa.Array, path: Path, name: str, *, untyped: bool) -> pa.Array:
    """int64; strings only where the format has no types (CSV)."""
    if untyped and is_text(column.type):
        column = _parsed(column, (pa.int64(),), path, name, "whole numbers")
    if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise wrong_type(path, name, column.type, "whole numbers")
    return _int64(column, path, name)


def numbers(column: pa.Array, path: Path, name: str, *, untyped: bool) -> pa.Array:
    """float64, decimals too; strings only where the format has no types (CSV)."""
    if untyped and is_text(column.type):
        column = _parsed(column, (pa.float64(),), path, name, "numbers")
    kind = column.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (numeric or pa.types.is_null(kind)):
        raise wrong_type(path, name, kind, "numbers")
    return column.cast(pa.float64(), safe=False)


def seconds(column: pa.Array, path: Path, unit: TimeUnit, *, untyped: bool) -> pa.Array:
    """int64 UTC seconds out of numbers in ``unit``, dates or timestamps (without a zone they count as UTC).

    Text may be ISO 8601, all of it with a zone or all without; numbers as text only in formats without types (CSV).
    """
    allowed = "UTC seconds as integers or floats, a timestamp type, or ISO 8601 such as 2026-01-31T23:59:59Z"
    if is_text(column.type):
        numeric = (pa.int64(), pa.float64()) if untyped else ()
        times = (pa.timestamp(ticks, zone) for ticks in ("us", "ns") for zone in ("UTC", None))
        column = _parsed(column, (*numeric, *times), path, "timestamp", allowed)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("s", tz=kind.tz if pa.types.is_timestamp(kind) else None), safe=False).cast(
            pa.int64()
        )
    if pa.types.is_null(kind):
        return column.cast(pa.int64())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise wrong_type(
            path,
            "timestamp",
            kind,
            allowed,
            "convert the column to UTC seconds, or name another: --map timestamp=COLUMN",
        )
    _check_unit(column, path, unit)
    if pa.types.is_floating(kind):
        finite = pc.if_else(pc.is_finite(column), column.cast(pa.float64()), pa.scalar(None, pa.float64()))
        whole = pc.floor(pc.divide(finite, float(TICKS[unit])))
        near = pc.min_element_wise(whole, pa.scalar(_FARTHEST), skip_nulls=False)
        return pc.max_element_wise(near, pa.scalar(-_FARTHEST), skip_nulls=False).cast(pa.int64())
    return pc.divide(_int64(column, path, "timestamp"), TICKS[unit])


def _check_unit(column: pa.Array, path: Path, unit: TimeUnit) -> None:
    """Refuse times of which most are, by their size, in another unit than was said."""
    values = np.abs(column.drop_null().to_numpy(zero_copy_only=False).astype(np.float64))
    values = values[np.isfinite(values)]
    if not len(values):
        return
    if unit == "s" and ((values >= _DATES[0]) & (values <= _DATES[1])).all() and _are_dates(values):
        raise DataError(
            f"the timestamps of {path.name} look like dates written as numbers, not seconds",
            seen=f"{values[0]:.0f}",
            allowed="seconds since 1970-01-01 UTC, a date or timestamp type, or ISO 8601 such as 2026-01-31",
            fix="write them in one of these forms",
        )
    middle = float(np.median(values))
    seen = next(name for name, ticks in TICKS.items() if middle < _LATEST_S * ticks or name == "ns")
    names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    if TICKS[seen] > TICKS[unit] or (unit != "s" and TICKS[seen] < TICKS[unit]):
        raise DataError(
            f"the timestamps of {path.name} look like {names[seen]}, not {names[unit]}",
            seen=f"a median of {middle:.0f}",
            allowed=f"{names[unit]} since 1970-01-01 UTC, below {_LATEST_S * TICKS[unit]:.0e}",
            fix=f"say --time-unit {seen}, and they are converted" if seen != "s" else "leave out --time-unit",
        )


def _are_dates(values: np.ndarray) -> bool:
    """Whether numbers read YYYYMMDD."""
    months, days = values // 100 % 100, values % 100
    return bool(((months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)).all())


def _int64(column: pa.Array, path: Path, name: str) -> pa.Array:
    """int64 out of any integers that fit."""
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise wrong_type(path, name, error, "whole numbers below 2^63") from None


def _parsed(column: pa.Array, kinds: tuple[pa.DataType, ...], path: Path, name: str, allowed: str) -> pa.Array:
    """The first of the types that every value can be read as; empty text is null."""
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    for kind in kinds:
        try:
            return column.cast(kind)
        except pa.ArrowInvalid as error:
            reason = error
    raise wrong_type(path, name, reason, allowed)
