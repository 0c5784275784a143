"""What can be recommended: one row an item, its text, and whatever else the source keeps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """The items of a catalog; an item's index is its row.

    Attributes:
        table: I rows with the string columns ``item_id`` (unique, never empty) and ``title`` (empty where the source
            has none), and any further columns of the source, under their own names and types (``price`` in the
            source's currency, ``brand``, ``categories``, …).
    """

    table: pa.Table

    def __post_init__(self) -> None:
        assert {"item_id", "title"} <= set(self.table.column_names)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def ids(self) -> list[str]:
        """I item ids."""
        return list(self.table["item_id"].to_pylist())

    @cached_property
    def titles(self) -> list[str]:
        """I titles; an empty string where there is none."""
        return [title or "" for title in self.table["title"].to_pylist()]

    @cached_property
    def index(self) -> dict[str, int]:
        """Item index by id."""
        return {item_id: index for index, item_id in enumerate(self.ids)}

    @property
    def text_columns(self) -> list[str]:
        """Names of the string columns that describe an item: all but ``item_id`` and other ids (``*_id``)."""
        return [
            field.name
            for field in self.table.schema
            if (pa.types.is_string(field.type) or pa.types.is_large_string(field.type))
            and not field.name.endswith("_id")
        ]

    def blank(self, column: str) -> np.ndarray:
        """bool (I,): whether this string column is empty, or white space."""
        return np.asarray(pc.equal(pc.utf8_trim_whitespace(pc.fill_null(self.table[column], "")), "").to_numpy())

    @cached_property
    def textless(self) -> np.ndarray:
        """bool (I,): items of which every text column is blank."""
        return np.logical_and.reduce([np.ones(len(self), bool), *map(self.blank, self.text_columns)])

    def select(self, rows: pa.Array) -> Items:
        """The items of these rows (integer array), in this order."""
        return Items(table=self.table.take(rows))
