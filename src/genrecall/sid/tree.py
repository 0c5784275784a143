"""The SIDs of a table as a tree whose leaves stand in order, so that every node is a stretch of leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """Leaves are the distinct SIDs in lexicographic order; levels on which nothing branches any more are left out.

    Attributes:
        leaf_of: int64 (I,) leaf of each item.
        by_leaf: int64 (I,) the items in the order of their leaves.
        owners: int64 (leaves,) items a leaf.
        starts: by level, int64 (nodes,): each node's first leaf.
        parents: by level, int64 (nodes,): each node's parent among the nodes one level up (level 0: all zero).
        nodes: by level, int64 (leaves,): which node a leaf lies under.
    """

    leaf_of: np.ndarray
    by_leaf: np.ndarray
    owners: np.ndarray
    starts: list[np.ndarray]
    parents: list[np.ndarray]
    nodes: list[np.ndarray]

    @classmethod
    def of(cls, sids: np.ndarray) -> Tree:
        """From int (I, L) SIDs."""
        order = np.lexsort(sids.T[::-1])
        ordered = sids[order]
        differs = np.cumsum(ordered[1:] != ordered[:-1], axis=1) > 0  # from this level on another SID than before
        first = np.concatenate(([True], differs[:, -1]))
        leaf_of = np.empty(len(sids), np.int64)
        leaf_of[order] = np.cumsum(first) - 1
        begins = np.concatenate((np.ones((1, sids.shape[1]), bool), differs))[first]
        above = np.zeros(len(begins), np.int64)
        starts, parents, nodes = [], [], []
        for level in range(sids.shape[1]):
            starts.append(np.flatnonzero(begins[:, level]))
            parents.append(above[starts[-1]])
            above = np.cumsum(begins[:, level]) - 1
            nodes.append(above)
            if len(starts[-1]) == len(begins):
                break
        return cls(
            leaf_of=leaf_of, by_leaf=order, owners=np.bincount(leaf_of), starts=starts, parents=parents, nodes=nodes
        )

    @property
    def leaves(self) -> int:
        """How many distinct SIDs there are."""
        return len(self.owners)

    def extent(self, leaves: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """First leaf, and the one after the last, under the first ``depth`` codes of each of ``leaves``."""
        starts, node = self.starts[depth - 1], self.nodes[depth - 1][leaves]
        return starts[node], np.append(starts, self.leaves)[node + 1]

    def product(self, chances: list[np.ndarray]) -> np.ndarray:
        """(n, leaves) products along every leaf's path of ``chances``: by level (n, nodes)."""
        total = chances[-1].copy()  # the last level's nodes are the leaves
        for level, nodes in zip(chances[:-1], self.nodes[:-1], strict=True):
            total *= level[:, nodes]
        return total

    def items_of(self, leaves: np.ndarray) -> np.ndarray:
        """Items of some leaves."""
        sizes, ends = self.owners[leaves], self.owners.cumsum()[leaves]
        return self.by_leaf[np.repeat(ends - sizes.cumsum(), sizes) + np.arange(sizes.sum())]
