"""A feature schema that suits a catalog: what its columns look like decides what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrecall.catalog.histories import Histories
from genrecall.catalog.store import Catalog
from genrecall.rank.columns import Columns, number_of, pieces
from genrecall.rank.hashing import codes_of
from genrecall.rank.schema import (
    HISTORY_LENGTH,
    ITEM_COUNT,
    ITEM_ID,
    ITEM_RECENT,
    USER_ID,
    Affinity,
    Behaviour,
    Bucketed,
    Column,
    Crossed,
    Feature,
    Hashed,
    Logged,
    Number,
    Schema,
    Vocabulary,
)

_SEPARATORS = (None, " > ", "|", ", ", " ")
_NUMBERS, _FEW, _CELLS = 0.9, 12, 10
_MOST_VALUES = 0.2
"""A text column with more distinct pieces than this share of the items tells items apart, and nothing about them."""
_CROSS_BUCKETS = 1 << 14
_LAST = 50


def default_schema(catalog: Catalog, train: Histories, affinities: Sequence[Affinity] = ()) -> Schema:
    """Ids, counts, every column that says something of several items or users, their crosses, the history, and how
    candidates go with it.
    """
    counts = train.item_counts(len(catalog.items))
    columns = [Column(name=USER_ID), Column(name=ITEM_ID), Column(name=ITEM_COUNT, kind="number")]
    columns.append(Column(name=HISTORY_LENGTH, kind="number"))
    numbers: list[Number] = [Logged(name="count", of=ITEM_COUNT), *affinities]
    if train.timed:
        columns.append(Column(name=ITEM_RECENT, kind="number"))
        numbers.insert(1, Logged(name="recent", of=ITEM_RECENT))
    features: list[Feature] = [
        Hashed(name="user", of=USER_ID, buckets=_power(2 * catalog.events.num_users)),
        Vocabulary(name="item", of=ITEM_ID, size=len(catalog.items)),
        Bucketed(name="count", of=ITEM_COUNT, edges=_edges(counts.astype(np.float64))),
        Bucketed(name="history", of=HISTORY_LENGTH, edges=_edges(train.lengths[train.lengths > 0].astype(float))),
    ]
    crossed: dict[str, list[str]] = {"item": [], "user": []}
    behaviours: list[Feature] = [Behaviour(name="clicked", like="item", last=_LAST)]
    for side, name, values, many in _described(catalog):
        column, feature = _column(side, name, values, many)
        if feature is None:
            continue
        columns.append(column)
        features.append(feature)
        crossed[side].append(feature.name if isinstance(feature, Bucketed) else column.name)
        if side == "item" and isinstance(feature, Vocabulary):
            behaviours.append(Behaviour(name=f"clicked_{feature.name}", like=feature.name, last=_LAST))
    named = {column.name: column.name.replace(".", "_") for column in columns}
    features += [
        Crossed(name=f"{named.get(u, u)}_x_{named.get(i, i)}", of=(u, i), buckets=_CROSS_BUCKETS)
        for u in crossed["user"]
        for i in crossed["item"]
    ]
    return Schema(columns=columns, features=[*features, *behaviours], numbers=numbers)


def vocabularies_of(schema: Schema, items: Columns, catalog: Catalog) -> Mapping[str, np.ndarray]:
    """uint64 codes of each vocabulary feature: those of the items' column, or of the users' profiles."""
    found = {}
    for feature in schema.tabled:
        if not isinstance(feature, Vocabulary):
            continue
        if feature.of in items.texts:
            found[feature.name] = _distinct(items.texts[feature.of].values)
        else:
            assert catalog.users is not None
            column = schema.column(feature.of)
            told = _texts(catalog.users[feature.of.removeprefix("user.")])
            found[feature.name] = _distinct(codes_of([one for value in told for one in pieces(value, column.split)]))
        assert len(found[feature.name]) == feature.size, f"{feature.name}: {len(found[feature.name])} values"
    return found


def _described(catalog: Catalog) -> list[tuple[str, str, list[str | None], int]]:
    """Side, name, values and number of rows of every column that may say something."""
    found = []
    for side, table in (("item", catalog.items.table), ("user", catalog.users)):
        if table is None:
            continue
        for name in table.column_names:
            if name == "title" or name.endswith("_id") or pa.types.is_nested(table.schema.field(name).type):
                continue
            found.append((side, name, _texts(table[name]), table.num_rows))
    return found


def _column(side: str, name: str, values: Sequence[str | None], many: int) -> tuple[Column, Feature | None]:
    """How a column is read, and its feature; None where it says nothing."""
    told, safe = [value for value in values if value], name.replace(".", "_")
    numbers = np.array([number_of(value) for value in told])
    if told and np.isfinite(numbers).mean() >= _NUMBERS and len(np.unique(numbers)) > _FEW:
        column = Column(name=f"{side}.{name}", kind="number")
        return column, Bucketed(name=safe, of=column.name, edges=_edges(numbers[np.isfinite(numbers)]))
    kinds = {split: {one for value in told for one in pieces(value, split)} for split in _SEPARATORS}
    split = min(_SEPARATORS, key=lambda split: len(kinds[split]))
    if len(kinds[split]) > 0.9 * len(kinds[None]):
        split = None  # cutting saves nothing
    column = Column(name=f"{side}.{name}", split=split)
    if not 2 <= len(kinds[split]) <= max(_MOST_VALUES * many, _FEW):
        return column, None
    return column, Vocabulary(name=safe, of=column.name, size=len(kinds[split]), width=8)


def _edges(numbers: np.ndarray) -> list[float]:
    """Distinct quantiles that cut numbers into about ten cells."""
    cuts = np.quantile(numbers, np.arange(1, _CELLS) / _CELLS) if len(numbers) else np.empty(0)
    return np.unique(cuts).tolist()


def _distinct(codes: np.ndarray) -> np.ndarray:
    return np.asarray(codes[np.sort(np.unique(codes, return_index=True)[1])])


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    return list(pc.cast(column, pa.string()).to_pylist())


def _power(count: int) -> int:
    return 1 << max(count - 1, 1).bit_length()
