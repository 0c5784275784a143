"""The active trie and item filters on the device, in buffers that outlive the catalog that is in them.

    bytes = 4 (M + spare) + b (N + spare) + (M + spare) + 8 (I + spare) + U (N + spare),    as in ``index.layout``

A new catalog is made ready off the engine's thread and copied over the old one between two batches, in stream order, so
that a batch sees one of them whole and graphs that hold the addresses stay good. After STATIC (Su et al. 2026, arXiv
2602.22647), which recompiles; we deviate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch

from genrecall.errors import CapacityError
from genrecall.index.layout import TrieTensors
from genrecall.index.trie import Trie
from genrecall.kernels.node_mask import LeafItems, node_mask
from genrecall.kernels.trie_select import Children, NodeFilter


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ready:
    """What a catalog's buffers are to hold, on the host.

    Attributes:
        tensors: the trie.
        items: of the leaves.
        most_children: a bound by level.
    """

    tensors: TrieTensors
    items: LeafItems
    most_children: tuple[int, ...]

    @classmethod
    def of(cls, trie: Trie, *, pinned: bool) -> _Ready:
        """In page-locked memory where a copy to the device is not to be waited for."""
        begin = np.append(trie.item_begin[trie.leaves.start : trie.leaves.stop], trie.num_items)
        order, begins = torch.tensor(trie.item_order), torch.from_numpy(begin.astype(np.int32))
        tensors = TrieTensors.of(trie, torch.device("cpu"))
        children = [
            trie.num_children[level.start : level.stop] for level in map(trie.nodes_at, range(trie.space.levels))
        ]
        # Rounded up, so that graphs that depend on these bounds serve later catalogs, too.
        most = tuple(
            min(1 << int(max(count.max(initial=1), 1) - 1).bit_length(), size)
            for count, size in zip(children, trie.space.codes, strict=True)
        )
        return cls(
            tensors=tensors.pinned() if pinned else tensors,
            items=LeafItems(
                order=order.pin_memory() if pinned else order, begin=begins.pin_memory() if pinned else begins
            ),
            most_children=most,
        )


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
        self._ready: WeakKeyDictionary[Trie, _Ready] = WeakKeyDictionary()
        self.trie = trie
        inner, nodes, items = (
            int(count * headroom) + 2 for count in (trie.leaves.start, trie.num_nodes, trie.num_items)
        )
        self.most_inner, self.most_nodes, self.most_items = inner, nodes, items
        self.prepare(trie)
        code = self._ready[trie].tensors.child_code.dtype
        self.begin = torch.zeros(inner + 1, dtype=torch.int32, device=device)
        self.code = torch.zeros(nodes, dtype=code, device=device)
        self.branching = torch.zeros(inner, dtype=torch.bool, device=device)
        self.items = LeafItems(
            order=torch.zeros(items, dtype=torch.int32, device=device),
            begin=torch.zeros(items + 1, dtype=torch.int32, device=device),  # every leaf has an item
        )
        self._allowed = torch.zeros(filters, nodes, dtype=torch.bool, device=device)
        self._masks: dict[int, np.ndarray] = {}
        self.load(trie)

    @property
    def trie_bytes(self) -> int:
        """Of the buffers that a search reads without filters, spare room counted in."""
        return self.begin.nbytes + self.code.nbytes + self.branching.nbytes

    @property
    def filter_bytes(self) -> int:
        """Of node masks, and what leads to them from item masks."""
        return self.items.order.nbytes + self.items.begin.nbytes + self._allowed.nbytes

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
        fits = trie.leaves.start <= self.most_inner and trie.num_nodes <= self.most_nodes
        if not fits or trie.num_items > self.most_items:
            raise CapacityError(
                "the catalog has outgrown the engine's buffers",
                seen=f"{trie.num_nodes} nodes, {trie.num_items} items",
                allowed=f"at most {self.most_nodes} nodes and {self.most_items} items",
                fix="open an engine with this catalog, or give more catalog_headroom from the start",
            )

    def prepare(self, trie: Trie) -> None:
        """Do what ``load`` need not do between two batches, on any thread; see ``require``."""
        self.require(trie)
        self._ready[trie] = _Ready.of(trie, pinned=self.device.type == "cuda")

    def prepared(self, trie: Trie) -> bool:
        """Whether ``load`` may come."""
        return trie in self._ready

    def load(self, trie: Trie) -> None:
        """Make a catalog the active one, in stream order."""
        if trie not in self._ready:  # two catalogs that were swapped back and forth before a batch saw them
            self.prepare(trie)
        ready, self.trie = self._ready.pop(trie), trie
        found = ready.tensors
        for buffer, tensor in (
            (self.begin, found.child_begin),
            (self.code, found.child_code),
            (self.branching, found.branching),
            (self.items.order, ready.items.order),
            (self.items.begin, ready.items.begin),
        ):
            buffer[: len(tensor)].copy_(tensor, non_blocking=True)  # page-locked memory is kept until it was read
        self._level_begin = trie.level_begin.tolist()
        self.most_children = ready.most_children
        self._masks = {}

    def children(self, level: int) -> Children:
        """The trie as the kernel of one level reads it."""
        return Children(begin=self.begin, code=self.code, most=self.most_children[level])

    def filter(self, masks: Sequence[np.ndarray | None]) -> list[int]:
        """Which row of node masks each item mask bool (I,) of a batch has, written here where needed; -1 for None."""
        rows, fresh = self.place(masks)
        if fresh:
            self.write([row for row, _ in fresh], self.pack([mask for _, mask in fresh]))
        return rows

    def place(self, masks: Sequence[np.ndarray | None]) -> tuple[list[int], list[tuple[int, np.ndarray]]]:
        """The row of each mask of a batch, and which masks must be written to which rows before it runs.

        Arrays are known by identity: requests that pass the same one share its row, and one that cannot be written to
        keeps it for later batches.
        """
        wanted = {id(mask): mask for mask in masks if mask is not None}
        if not wanted:
            return [-1] * len(masks), []
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

    def pack(self, masks: Sequence[np.ndarray]) -> torch.Tensor:
        """Item masks bool (I,) as uint8 (n, ⌈I/8⌉), little-endian bits, in memory that is copied without waiting."""
        pinned = self.device.type == "cuda"
        bits = torch.empty(len(masks), -(-self.trie.num_items // 8), dtype=torch.uint8, pin_memory=pinned)
        for own, mask in zip(bits.numpy(), masks, strict=True):
            own[:] = np.packbits(mask, bitorder="little")
        return bits

    def write(self, rows: Sequence[int], bits: torch.Tensor) -> None:
        """Make item masks that ``pack`` packed the node masks of rows, in stream order; the host waits for nothing."""
        if len(rows) == 0:
            return
        if self.device.type == "cpu":
            for row, own in zip(rows, bits.numpy(), strict=True):
                mask = np.unpackbits(own, count=self.trie.num_items, bitorder="little").view(np.bool_)
                self._allowed[row, : self.trie.num_nodes] = torch.from_numpy(self.trie.allowed_nodes(mask))
            return
        # Page-locked memory is not given to anybody else before these copies have read it.
        places = torch.tensor(rows, dtype=torch.int32).pin_memory().to(self.device, non_blocking=True)
        there = bits.to(self.device, non_blocking=True)
        node_mask(there, places, self.items, self.begin, self._level_begin, self._allowed)
