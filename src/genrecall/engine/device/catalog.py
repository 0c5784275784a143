"""The active trie and item filters on the device, in buffers that outlive the catalog that is in them.

    bytes = (4 + b + 1)(N + spare) + 4 (I + spare) + U (N + spare),    b = 1, 2 or 4 as in ``index.layout``

A new catalog is copied over the old one between two batches, in stream order, so that a batch sees one of them whole
and graphs that hold the addresses stay good. After STATIC (Su et al. 2026, arXiv 2602.22647), which recompiles; we
deviate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from genrecall.errors import CapacityError
from genrecall.index.layout import TrieTensors
from genrecall.index.trie import Trie
from genrecall.kernels.node_mask import node_mask
from genrecall.kernels.trie_select import Children, NodeFilter


class DeviceCatalog:
    """Buffers for one catalog at a time.

    Args:
        trie: the first one.
        headroom: how many times as many nodes and items later ones may have.
        filters: U, distinct item filters of one batch.
        device: where.
    """

    def __init__(self, trie: Trie, *, headroom: float, filters: int, device: torch.device) -> None:
        self.device = device
        self._first = TrieTensors.of(trie, torch.device("cpu"))
        nodes, items = int(trie.num_nodes * headroom) + 2, int(trie.num_items * headroom) + 1
        self.most_nodes, self.most_items = nodes, items
        self.begin = torch.zeros(nodes + 1, dtype=torch.int32, device=device)
        self.code = torch.zeros(nodes, dtype=self._first.child_code.dtype, device=device)
        self.branching = torch.zeros(nodes, dtype=torch.bool, device=device)
        self._leaf = torch.zeros(items, dtype=torch.int32, device=device)
        self._items = torch.zeros(items, dtype=torch.bool, device=device)
        self._allowed = torch.zeros(filters, nodes, dtype=torch.bool, device=device)
        self._masks: dict[int, np.ndarray] = {}
        self.load(trie)

    @property
    def nbytes(self) -> int:
        """Of all buffers."""
        held = (self.begin, self.code, self.branching, self._leaf, self._items, self._allowed)
        return sum(tensor.nbytes for tensor in held)

    def require(self, trie: Trie) -> None:
        """Refuse a catalog that does not fit.

        Raises:
            CapacityError: more nodes or items than there is room for, or another SID space.
        """
        if trie.space.codes != self.trie.space.codes:
            raise CapacityError(
                "a catalog of another SID space cannot take this one's place",
                seen=trie.space.codes,
                allowed=f"{self.trie.space.codes}",
                fix="open an engine for it",
            )
        if trie.num_nodes > self.most_nodes or trie.num_items > self.most_items:
            raise CapacityError(
                "the catalog has outgrown the engine's buffers",
                seen=f"{trie.num_nodes} nodes, {trie.num_items} items",
                allowed=f"at most {self.most_nodes} nodes and {self.most_items} items",
                fix="open an engine with this catalog, or give more catalog_headroom from the start",
            )

    def load(self, trie: Trie) -> None:
        """Make a catalog the active one, in stream order; see ``require``."""
        found = TrieTensors.of(trie, torch.device("cpu"))
        self.trie = trie
        for buffer, tensor in (
            (self.begin, found.child_begin),
            (self.code, found.child_code),
            (self.branching, found.branching),
        ):
            buffer[: len(tensor)].copy_(tensor)
        leaf = np.empty(trie.num_items, dtype=np.int32)
        leaves = trie.item_begin[trie.leaves.start : trie.leaves.stop]
        leaf[trie.item_order] = trie.leaves.start + np.searchsorted(leaves, np.arange(trie.num_items), side="right") - 1
        self._leaf[: trie.num_items].copy_(torch.from_numpy(leaf))
        self._level_begin = trie.level_begin.tolist()
        children = [
            trie.num_children[level.start : level.stop] for level in map(trie.nodes_at, range(trie.space.levels))
        ]
        # Rounded up, so that graphs that depend on these bounds serve later catalogs, too.
        self.most_children = tuple(
            min(1 << int(max(count.max(initial=1), 1) - 1).bit_length(), size)
            for count, size in zip(children, trie.space.codes, strict=True)
        )
        self._masks = {}

    def children(self, level: int) -> Children:
        """The trie as the kernel of one level reads it."""
        return Children(begin=self.begin, code=self.code, most=self.most_children[level])

    def filter(self, masks: Sequence[np.ndarray | None]) -> list[int]:
        """Which row of node masks each item mask bool (I,) of a batch has, written here where needed; -1 for None."""
        rows, fresh = self.place(masks)
        for row, mask in fresh:
            self.write(row, mask)
        return rows

    def place(self, masks: Sequence[np.ndarray | None]) -> tuple[list[int], list[tuple[int, np.ndarray]]]:
        """The row of each mask of a batch, and which masks must be written to which rows before it runs.

        Arrays are known by identity: requests that pass the same one share its row, and one that cannot be written to
        keeps it for later batches.
        """
        wanted = {id(mask): mask for mask in masks if mask is not None}
        kept = {place: mask for place, mask in self._masks.items() if id(mask) in wanted and not mask.flags.writeable}
        row = {id(mask): place for place, mask in kept.items()}
        free = iter(place for place in range(len(self._allowed)) if place not in kept)
        fresh = []
        for key, mask in wanted.items():
            if key not in row:
                row[key] = next(free)  # the scheduler sees to it that there is one
                fresh.append((row[key], mask))
                kept[row[key]] = mask
        self._masks |= kept
        return [-1 if mask is None else row[id(mask)] for mask in masks], fresh

    def node_filter(self, rows: torch.Tensor) -> NodeFilter:
        """Masks with the row of each request."""
        return NodeFilter(allowed=self._allowed, row=rows)

    def write(self, row: int, mask: np.ndarray) -> None:
        """Make an item mask bool (I,) the node mask of a row, in stream order."""
        out = self._allowed[row]
        if self.device.type == "cpu":
            out[: self.trie.num_nodes] = torch.from_numpy(self.trie.allowed_nodes(mask))
            return
        staged, copied = self._staged[row]
        copied.synchronize()
        staged[: len(mask)].numpy()[:] = mask
        items = self._items[: len(mask)]
        items.copy_(staged[: len(mask)], non_blocking=True)
        copied.record()
        node_mask(items, self._leaf[: len(mask)], self.begin, self._level_begin, out)

    @cached_property
    def _staged(self) -> list[tuple[torch.Tensor, torch.cuda.Event]]:
        """Pinned memory for item masks on their way to the device, and when it may be written again."""
        return [
            (torch.empty(self.most_items, dtype=torch.bool, pin_memory=True), torch.cuda.Event())
            for _ in range(len(self._allowed))
        ]
