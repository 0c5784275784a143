"""The trie of valid SIDs: the one definition of what may be generated.

A prefix ``(c_0 … c_{l-1})`` is a node of depth ``l``; its valid next codes are ``{s_l : s ∈ SIDs, s starts with it}``.
Nodes are numbered breadth first and lexicographically, stored as CSR over edges (the "static" layout of Su et al. 2026,
"Vectorizing the Trie", arXiv 2602.22647). We deviate: edge ``e`` always leads to node ``e + 1``, so no child pointers
are stored, and every node owns one contiguous range of the items sorted by SID, so that an item mask becomes a node
mask with one cumulative sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from genrecall.errors import DataError
from genrecall.sid.space import SidSpace

ROOT = 0
_KEY_LIMIT = 2**63
_FEW = 16
"""Below one item in so many gone, it is quicker to close their nodes than to count all items."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trie:
    """N nodes over I items; immutable.

    Attributes:
        space: the SID layout; its L levels are the depths of the edges.
        child_begin: int64 (N+1,); node ``n`` has the edges ``child_begin[n] … child_begin[n+1]-1``, by ascending code.
        child_code: int32 (N-1,); code of each edge. Edge ``e`` leads to node ``e + 1``.
        level_begin: int64 (L+2,); nodes of depth ``l`` are ``level_begin[l] … level_begin[l+1]-1``, in SID order.
        item_order: int32 (I,); items sorted by SID, ties by index.
        item_begin, item_end: int64 (N,); node ``n`` owns ``item_order[item_begin[n]:item_end[n]]``.
    """

    space: SidSpace
    child_begin: np.ndarray
    child_code: np.ndarray
    level_begin: np.ndarray
    item_order: np.ndarray
    item_begin: np.ndarray
    item_end: np.ndarray

    @classmethod
    def build(cls, space: SidSpace, sids: np.ndarray) -> Trie:
        """Index the SIDs of I items.

        Args:
            space: the layout.
            sids: integer (I, L) codes; equal rows are items that share a SID.

        Raises:
            DataError: a row is not a SID of the space.
        """
        sids = np.asarray(sids)
        _require_sids(space, sids)
        order, columns = _sort(space, sids)
        items = len(order)
        child_begin = [np.zeros(1, dtype=np.int64)]
        child_code: list[np.ndarray] = []
        starts = [np.zeros(1, dtype=np.int64)]
        ends = [np.full(1, items, dtype=np.int64)]
        fresh = np.zeros(items, dtype=bool)
        fresh[:1] = True
        edges = 0
        for column in columns:
            fresh[1:] |= column[1:] != column[:-1]
            start = np.flatnonzero(fresh)
            # The first child of a node starts where the node itself starts; ends follow from the next node's begin.
            child_begin.append(edges + np.searchsorted(start, starts[-1]))
            child_code.append(column[start])
            starts.append(start)
            ends.append(np.append(start[1:], items)[: len(start)])
            edges += len(start)
        leaves = np.full(len(starts[-1]) + 1, edges, dtype=np.int64)
        depth_sizes = [len(start) for start in starts]
        return cls(
            space=space,
            child_begin=np.concatenate([*child_begin[1:], leaves]),
            child_code=np.concatenate(child_code),
            level_begin=np.concatenate([[0], np.cumsum(depth_sizes)]).astype(np.int64),
            item_order=order.astype(np.int32),
            item_begin=np.concatenate(starts),
            item_end=np.concatenate(ends),
        )

    @property
    def num_nodes(self) -> int:
        """N, the root included."""
        return len(self.item_begin)

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.item_order)

    @property
    def leaves(self) -> range:
        """Nodes of depth L: one for each distinct SID, in SID order."""
        return self.nodes_at(self.space.levels)

    @cached_property
    def level_sizes(self) -> tuple[int, ...]:
        """Nodes of each depth, the root's first."""
        return tuple(np.diff(self.level_begin).tolist())

    def nodes_at(self, depth: int) -> range:
        """Nodes of one depth, in the lexicographic order of their prefixes; depth 0 is the root."""
        return range(int(self.level_begin[depth]), int(self.level_begin[depth + 1]))

    def children(self, node: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes (ascending) and nodes one level below; both empty at a leaf."""
        begin, end = self.child_begin[node], self.child_begin[node + 1]
        return self.child_code[begin:end], np.arange(begin + 1, end + 1)

    def walk(self, prefix: Sequence[int]) -> int | None:
        """The node of a prefix of at most L codes; None where no SID starts with it."""
        node = ROOT
        for code in prefix:
            codes, nodes = self.children(node)
            at = int(np.searchsorted(codes, code))
            if at == len(codes) or codes[at] != code:
                return None
            node = int(nodes[at])
        return node

    def paths(self, sids: np.ndarray) -> np.ndarray:
        """Nodes along M code sequences at once.

        Args:
            sids: integer (M, D) with D ≤ L codes.

        Returns:
            int64 (M, D+1); column ``d`` is the node after ``d`` codes (0: the root), -1 from where no SID matches.
        """
        sids = np.asarray(sids, dtype=np.int64)
        # In SID order what is searched for lies beside what was found before: twice as quick.
        key = np.zeros(len(sids), dtype=np.int64)
        for code, size in zip(sids.T, self.space.codes, strict=False):
            key = key * size + code
        order = np.argsort(key)
        sids = sids[order]
        nodes = np.full((sids.shape[0], sids.shape[1] + 1), -1, dtype=np.int64)
        nodes[:, 0] = ROOT
        for depth in range(sids.shape[1]):
            code = sids[:, depth]
            known = (nodes[:, depth] >= 0) & (code >= 0) & (code < self.space.codes[depth])
            key = nodes[known, depth] * self._stride + code[known]
            edge = np.searchsorted(self._edge_key, key)
            found = edge < len(self._edge_key)
            found[found] = self._edge_key[edge[found]] == key[found]
            nodes[known, depth + 1] = np.where(found, edge + 1, -1)
        paths = np.empty_like(nodes)
        paths[order] = nodes
        return paths

    def children_mask(self, nodes: np.ndarray, level: int) -> np.ndarray:
        """Valid codes after each of M nodes of depth ``level``, bool (M, C): what the training loss normalises over."""
        row, edge = self.edges(nodes)
        mask = np.zeros((len(nodes), self.space.codes[level]), dtype=bool)
        mask[row, self.child_code[edge]] = True
        return mask

    def edges(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All edges of M nodes: int64 place in ``nodes`` of each edge's node, and int64 edges, by ascending code."""
        nodes = np.asarray(nodes, dtype=np.int64)
        begin, count = self.child_begin[nodes], self.num_children[nodes]
        row = np.repeat(np.arange(len(nodes)), count)
        return row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begin, count)

    def is_valid(self, sid: Sequence[int]) -> bool:
        """Whether some item owns this SID."""
        return len(sid) == self.space.levels and self.walk(sid) is not None

    def items_at(self, node: int) -> np.ndarray:
        """Item indices (int32) whose SIDs start with the node's prefix, by SID, then by index."""
        return self.item_order[self.item_begin[node] : self.item_end[node]]

    def allowed_nodes(self, item_mask: np.ndarray) -> np.ndarray:
        """Nodes that still lead to an allowed item.

        Args:
            item_mask: bool (I,), True where the item may be returned.

        Returns:
            bool (N,).
        """
        assert item_mask.shape == (self.num_items,), "one flag per item of the trie's catalog"
        gone = np.flatnonzero(~item_mask)
        if len(gone) * _FEW < self.num_items:
            return self._nodes_without(np.sort(self._place[gone]))
        below = np.zeros(self.num_items + 1, dtype=np.int32)
        np.cumsum(item_mask[self.item_order], out=below[1:])
        return below[self.item_end] > below[self.item_begin]

    def _nodes_without(self, gone: np.ndarray) -> np.ndarray:
        """``allowed_nodes`` where few items are gone, given their ascending places in ``item_order``: leaves first,
        and only as far up as whole nodes are gone.
        """
        allowed = np.ones(self.num_nodes, dtype=bool)
        for depth in range(self.space.levels, -1, -1):
            level = self.nodes_at(depth)
            begins = self.item_begin[level.start : level.stop]
            node, lost = np.unique(np.searchsorted(begins, gone, side="right"), return_counts=True)
            node += level.start - 1
            closed = node[lost == self.item_end[node] - self.item_begin[node]]
            if len(closed) == 0:
                break
            allowed[closed] = False
        return allowed

    @cached_property
    def _place(self) -> np.ndarray:
        """int64 (I,) place of each item in ``item_order``."""
        place = np.empty(self.num_items, dtype=np.int64)
        place[self.item_order] = np.arange(self.num_items)
        return place

    @cached_property
    def num_children(self) -> np.ndarray:
        """int64 (N,); 0 at leaves."""
        return np.diff(self.child_begin)

    @cached_property
    def num_sids(self) -> np.ndarray:
        """int64 (N,): distinct SIDs below each node; 1 at leaves. A node with one is *resolved*: the rest is forced."""
        first = self.level_begin[self.space.levels]
        leaf_start = self.item_begin[first:]
        return np.searchsorted(leaf_start, self.item_end) - np.searchsorted(leaf_start, self.item_begin)

    @cached_property
    def _stride(self) -> int:
        return max(self.space.codes)

    @cached_property
    def _edge_key(self) -> np.ndarray:
        """int64 (N-1,), ascending: parent * stride + code."""
        parent = np.repeat(np.arange(self.num_nodes, dtype=np.int64), self.num_children)
        return parent * self._stride + self.child_code


def _sort(space: SidSpace, sids: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Items in SID order, ties by index, and their int32 codes of each level in that order.

    Where SID and index fit into one integer together, that is sorted, which takes a fraction of sorting indices by a
    key, and the codes are read from it again instead of being gathered from all over memory.
    """
    items = len(sids)
    if space.capacity * items >= _KEY_LIMIT:
        order = np.lexsort(sids.T[::-1])
        return order, [sids[order, level].astype(np.int32) for level in range(space.levels)]
    key = np.zeros(items, dtype=np.int64)
    for level, size in enumerate(space.codes):
        key *= size
        key += sids[:, level]
    key *= items
    key += np.arange(items)
    key.sort()
    key, order = np.divmod(key, max(items, 1))
    columns = []
    for size in reversed(space.codes):
        key, column = np.divmod(key, size)
        columns.append(column.astype(np.int32))
    return order, columns[::-1]


def _require_sids(space: SidSpace, sids: np.ndarray) -> None:
    shape_fits = sids.ndim == 2 and sids.shape[1] == space.levels and np.issubdtype(sids.dtype, np.integer)
    if not shape_fits:
        raise DataError(
            "SIDs do not have the layout of the SID space",
            seen=f"{sids.dtype} array of shape {sids.shape}",
            allowed=f"integers of shape (items, {space.levels})",
            fix="use the SID table that was built with this space",
        )
    if any(len(sids) and not 0 <= sids[:, at].min() <= sids[:, at].max() < size for at, size in enumerate(space.codes)):
        wrong = ((sids < 0) | (sids >= np.asarray(space.codes))).any(axis=1)
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            "a SID has a code outside its level",
            seen=f"{sids[row].tolist()} at item {row} ({int(wrong.sum())} such items)",
            allowed=f"0 ≤ code < {space.codes}",
            fix="use the SID table that was built with this space",
        )
