"""Columns as numbers: texts as ragged 64-bit codes, numbers as float64; of items once, of requests each time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrecall.catalog.histories import offsets_of
from genrecall.catalog.items import Items
from genrecall.errors import ConfigError
from genrecall.rank.hashing import codes_of
from genrecall.rank.schema import (
    HISTORY_LAST,
    HISTORY_LENGTH,
    ITEM_COUNT,
    ITEM_ID,
    ITEM_RECENT,
    USER_ID,
    Column,
    Schema,
)

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ragged:
    """n lists as one array: list ``i`` is ``values[offsets[i]:offsets[i + 1]]``; offsets int64 (n+1,)."""

    offsets: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 (n,)."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> np.ndarray:
        """int64, the list of each value."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @classmethod
    def of(cls, lists: Sequence[Sequence[int] | np.ndarray], dtype: type = np.int32) -> Self:
        """From lists."""
        offsets = offsets_of(np.fromiter((len(row) for row in lists), np.int64, len(lists)))
        parts: list[np.ndarray] = [np.asarray(row, dtype) for row in lists]
        return cls(offsets=offsets, values=np.concatenate(parts) if parts else np.empty(0, dtype))

    @classmethod
    def single(cls, values: np.ndarray) -> Self:
        """Lists of one value each."""
        return cls(offsets=np.arange(len(values) + 1, dtype=np.int64), values=values)

    @classmethod
    def chain(cls, parts: Sequence[Ragged]) -> Ragged:
        """All lists, one part's after the other's."""
        lengths = np.concatenate([part.lengths for part in parts])
        return Ragged(offsets=offsets_of(lengths), values=np.concatenate([part.values for part in parts]))

    def take(self, rows: np.ndarray) -> Ragged:
        """These lists, in this order."""
        begins = self.offsets[rows]
        lengths = self.offsets[rows + 1] - begins  # of few lists, where there may be millions
        if (lengths == 1).all():
            return Ragged.single(self.values[begins])
        offsets = offsets_of(lengths)
        where = np.repeat(begins - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(offsets=offsets, values=self.values[where])

    def newest(self, n: int) -> Ragged:
        """The last ``n`` values of each list."""
        lengths = np.minimum(self.lengths, n)
        offsets = offsets_of(lengths)
        where = np.repeat(self.offsets[1:] - lengths - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(offsets=offsets, values=self.values[where])


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """R requests and the P candidates of each, as a ranker is told of them.

    Attributes:
        users: ids; None where nobody is named.
        profiles: columns by name.
        histories: int32 item indices, oldest first; R lists.
        candidates: int32 item indices; R lists.
        evidence: float32 (P, F), NaN where recall said nothing.
        state: float32 (R, E) of the generator; None where the schema reads none.
    """

    users: Sequence[str | None]
    profiles: Sequence[Mapping[str, str]]
    histories: Ragged
    candidates: Ragged
    evidence: np.ndarray
    state: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)


def joined(parts: Sequence[Asked]) -> Asked:
    """One call's worth of requests that came one by one."""
    if len(parts) == 1:
        return parts[0]
    states = [part.state for part in parts if part.state is not None]
    assert len(states) in (0, len(parts)), "one schema wants a state of all requests or of none"
    return Asked(
        users=[user for part in parts for user in part.users],
        profiles=[profile for part in parts for profile in part.profiles],
        histories=Ragged.chain([part.histories for part in parts]),
        candidates=Ragged.chain([part.candidates for part in parts]),
        evidence=np.concatenate([part.evidence for part in parts]),
        state=np.concatenate(states) if states else None,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """Of n items or requests: uint64 codes by text column, float64 (n,) by number column (NaN: none)."""

    texts: Mapping[str, Ragged]
    numbers: Mapping[str, np.ndarray]


def item_columns(items: Items, schema: Schema, counts: np.ndarray, recent: np.ndarray | None = None) -> Columns:
    """Of all I items; ``counts`` int (I,) are training events, ``recent`` the last of them, if the schema asks for it.

    Raises:
        ConfigError: the catalog lacks a column.
    """
    texts, numbers = {ITEM_ID: Ragged.single(codes_of(items.ids))}, {}
    for column in (c for c in schema.columns if c.of_item and c.name != ITEM_ID):
        name = column.name.removeprefix("item.")
        if (counted := {ITEM_COUNT: counts, ITEM_RECENT: recent}.get(column.name)) is not None:
            numbers[column.name] = counted.astype(np.float64)
            continue
        if name not in items.table.column_names:
            raise ConfigError(
                "the ranker's schema names a column that the catalog lacks",
                seen=column.name,
                allowed=", ".join(f"item.{known}" for known in items.table.column_names),
                fix="correct the schema, or import the column",
            )
        values = items.table[name]
        plain = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
        if column.kind == "number" and plain:
            numbers[column.name] = np.asarray(pc.cast(values, pa.float64()).to_numpy(), np.float64)
        elif column.kind == "number":
            numbers[column.name] = np.array([number_of(told) for told in pc.cast(values, pa.string()).to_pylist()])
        else:
            texts[column.name] = _codes(pc.cast(values, pa.string()).to_pylist(), column)
    return Columns(texts=texts, numbers=numbers)


def request_columns(asked: Asked, schema: Schema, item_ids: Ragged) -> Columns:
    """Of R requests; ``item_ids`` are the items' own codes, one each."""
    told: dict[str, Callable[[], list[str | None]]] = {USER_ID: lambda: list(asked.users)}
    texts, numbers = {}, {}
    for column in (c for c in schema.columns if not c.of_item):
        if column.name == HISTORY_LENGTH:
            numbers[column.name] = asked.histories.lengths.astype(np.float64)
        elif column.name == HISTORY_LAST:
            last = asked.histories.newest(1)
            texts[column.name] = Ragged(offsets=last.offsets, values=item_ids.values[last.values])
        else:
            name = column.name.removeprefix("user.")
            values = told.get(column.name, lambda name=name: [own.get(name) for own in asked.profiles])()
            if column.kind == "number":
                numbers[column.name] = np.array([number_of(value) for value in values], np.float64)
            else:
                texts[column.name] = _codes(values, column)
    return Columns(texts=texts, numbers=numbers)


def number_of(told: str | None) -> float:
    """The number that a text is; NaN where it is none."""
    return float(told) if told is not None and _NUMBER.fullmatch(told) else float("nan")


def pieces(told: str | None, split: str | None) -> list[str]:
    """The values of a text column."""
    if not told:
        return []
    return [told] if split is None else [piece for part in told.split(split) if (piece := part.strip(" "))]


def _codes(values: Sequence[str | None], column: Column) -> Ragged:
    lists = [pieces(value, column.split) for value in values]
    flat = codes_of([piece for own in lists for piece in own])
    return Ragged(offsets=offsets_of(np.fromiter(map(len, lists), np.int64, len(lists))), values=flat)
