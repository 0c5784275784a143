"""What rank 0 tells the others beside packed batches: sizes and catalogs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from genrecall.engine.worker.frames import Frame
from genrecall.errors import CapacityError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def told(sizes: DataclassInstance) -> dict[str, Any]:
    """A dataclass of numbers and tuples of numbers, for a frame's head."""
    return {field.name: vars(sizes)[field.name] for field in fields(sizes)}


def sizes_of(kind: type[T], head: Mapping[str, Any]) -> T:
    """The dataclass of which ``told`` made this."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in head.items()})


def trie_arrays(trie: Trie) -> dict[str, np.ndarray]:
    """All of a trie but its space.

    Raises:
        CapacityError: 2^31 items or more.
    """
    if trie.num_items >= 2**31:
        raise CapacityError(
            "a catalog is too large to be told", seen=trie.num_items, allowed=f"{2**31 - 1}", fix="split it"
        )
    return {field.name: vars(trie)[field.name].astype(np.int32) for field in fields(trie) if field.name != "space"}


def trie_of(frame: Frame) -> Trie:
    """The trie of a frame with ``trie_arrays`` and the space's ``codes``."""
    names = [field.name for field in fields(Trie) if field.name != "space"]
    wide = {name: frame.arrays[name].astype(np.int64) for name in names}
    narrow = {name: frame.arrays[name] for name in ("child_code", "item_order")}
    return Trie(space=SidSpace(tuple(frame.head["codes"])), **(wide | narrow))
