"""Neighbours by SID against neighbours by vector.

    overlap = |kNN by SID ∩ kNN by vector| / k, where SID neighbours share the longest prefix, ties broken at random

Source: the neighbourhood precision of dimension reduction (Venna and Kaski 2001), with a prefix metric. We deviate: the
overlap is the exact expectation over the random ties (of which prefixes have many), not one draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genrecall.sid.normaliser import Normaliser
from genrecall.sid.tree import Tree


class Nearest:
    """The nearest other items, by cosine, of a seeded sample of ``queries`` items; vectors come by in steps."""

    def __init__(
        self, vectors: np.ndarray, normaliser: Normaliser, *, neighbours: int, queries: int, seed: int
    ) -> None:
        self._items = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:queries])
        self._query = torch.nn.functional.normalize(normaliser.rows(vectors[self._items]))
        self._seen = 0
        shape = (len(self._items), min(neighbours, len(vectors) - 1))
        self._cosines = torch.full(shape, -2.0, device=self._query.device)
        self._near = torch.zeros(shape, dtype=torch.int64, device=self._query.device)

    @classmethod
    def of(cls, vectors: np.ndarray, normaliser: Normaliser, *, neighbours: int, queries: int, seed: int) -> Nearest:
        """When all vectors (I, D) were seen: one pass over them, whatever the number of queries."""
        nearest = cls(vectors, normaliser, neighbours=neighbours, queries=queries, seed=seed)
        for rows in normaliser.chunks(vectors):
            nearest.see(rows)
        return nearest

    def see(self, rows: torch.Tensor) -> None:
        """The next of all vectors, normalised (n, D)."""
        cosines = self._query @ torch.nn.functional.normalize(rows).T
        low, high = np.searchsorted(self._items, [self._seen, self._seen + len(rows)])
        cosines[np.arange(low, high), self._items[low:high] - self._seen] = -2  # an item is no neighbour of its own
        k = self._near.shape[1]
        best, places = cosines.topk(min(k, len(rows)), 1)
        self._cosines, kept = torch.cat([self._cosines, best], 1).topk(k, 1)
        self._near = torch.cat([self._near, places + self._seen], 1).gather(1, kept)
        self._seen += len(rows)

    def overlap(self, sids: np.ndarray) -> dict[str, Any]:
        """Neighbours by longest common SID (I, L) prefix against those by cosine, when all vectors were seen."""
        near, k, others = self._near.cpu().numpy(), self._near.shape[1], len(sids) - 1
        if k < 1:
            return {"k": 0, "queries": 0, "overlap": 0.0, "chance": 0.0}
        tree = Tree.of(sids)
        leaves, ends = tree.leaf_of[self._items], tree.owners.cumsum()
        shared = np.zeros(near.shape, np.int64)
        sharing = [np.full(len(leaves), others)]  # other items that share so many codes with the query, or more
        for depth, nodes in enumerate(tree.nodes, 1):
            shared += nodes[leaves][:, None] == nodes[tree.leaf_of[near]]
            begin, end = tree.extent(leaves, depth)
            sharing.append(ends[end - 1] - ends[begin] + tree.owners[begin] - 1)
        sharing.append(np.zeros(len(leaves), np.int64))
        at_least = np.stack(sharing, 1)
        longer = np.take_along_axis(at_least, shared + 1, 1)
        tied = np.take_along_axis(at_least, shared, 1) - longer
        drawn = np.clip((k - longer) / np.maximum(tied, 1), 0, 1)
        return {"k": k, "queries": len(leaves), "overlap": float(drawn.mean()), "chance": k / others}


def common_prefix(sids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64 (n, I): how many leading codes each item shares with the items ``rows``; −1 for an item with itself."""
    shared = np.zeros((len(rows), len(sids)), np.int64)
    equal = np.ones(shared.shape, bool)
    for level in range(sids.shape[1]):
        equal &= sids[rows, level][:, None] == sids[:, level]
        shared += equal
    shared[np.arange(len(rows)), rows] = -1
    return shared


def nearest_items(vectors: np.ndarray, normaliser: Normaliser, item: int, count: int) -> list[tuple[int, float]]:
    """Indices and cosines of the nearest other items."""
    cosines = _cosines(vectors, normaliser, np.array([item]))[0]
    return [(int(i), float(cosines[i])) for i in np.argsort(-cosines, kind="stable")[:count] if i != item]


def nearest_sids(sids: np.ndarray, item: int, count: int) -> list[tuple[int, int]]:
    """Indices and shared levels of the items with the longest common prefix; ties by index."""
    shared = common_prefix(sids, np.array([item]))[0]
    return [(int(i), int(shared[i])) for i in np.argsort(-shared, kind="stable")[:count] if i != item]


def _cosines(vectors: np.ndarray, normaliser: Normaliser, rows: np.ndarray) -> np.ndarray:
    """(n, I) cosines of normalised vectors; −2 for an item with itself."""
    query = torch.nn.functional.normalize(normaliser.rows(vectors[rows]))
    parts = [query @ torch.nn.functional.normalize(chunk).T for chunk in normaliser.chunks(vectors)]
    cosines = torch.cat(parts, 1).cpu().numpy()
    cosines[np.arange(len(rows)), rows] = -2
    return cosines
