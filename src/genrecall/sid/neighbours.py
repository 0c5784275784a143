"""Neighbours by SID against neighbours by vector.

    overlap = |kNN by SID ∩ kNN by vector| / k, where SID neighbours share the longest prefix, ties broken at random

Source: the neighbourhood precision of dimension reduction (Venna and Kaski 2001), with a prefix metric. We deviate: the
overlap is the exact expectation over the random ties (of which prefixes have many), not one draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genrecall.sid.normaliser import CHUNK, Normaliser
from genrecall.sid.tree import Tree


def neighbour_overlap(
    sids: np.ndarray, vectors: np.ndarray, normaliser: Normaliser, *, neighbours: int, queries: int, seed: int
) -> dict[str, Any]:
    """Neighbours by longest common SID prefix against neighbours by cosine, on a seeded sample of items.

    One pass over the (I, D) vectors, whatever the number of queries.
    """
    items = len(sids)
    k = min(neighbours, items - 1)
    if k < 1:
        return {"k": 0, "queries": 0, "overlap": 0.0, "chance": 0.0}
    chosen = np.sort(np.random.default_rng(seed).permutation(items)[:queries])
    near = _nearest(vectors, normaliser, chosen, k)
    tree = Tree.of(sids)
    leaves = tree.leaf_of[chosen]
    shared = np.zeros(near.shape, np.int64)
    sharing = [np.full(len(chosen), items - 1)]  # other items that share so many codes with the query, or more
    for depth, nodes in enumerate(tree.nodes, 1):
        shared += nodes[leaves][:, None] == nodes[tree.leaf_of[near]]
        begin, end = tree.extent(leaves, depth)
        ends = tree.owners.cumsum()
        sharing.append(ends[end - 1] - ends[begin] + tree.owners[begin] - 1)
    sharing.append(np.zeros(len(chosen), np.int64))
    at_least = np.stack(sharing, 1)
    longer = np.take_along_axis(at_least, shared + 1, 1)
    tied = np.take_along_axis(at_least, shared, 1) - longer
    drawn = np.clip((k - longer) / np.maximum(tied, 1), 0, 1)
    return {"k": k, "queries": len(chosen), "overlap": float(drawn.mean()), "chance": k / (items - 1)}


def _nearest(vectors: np.ndarray, normaliser: Normaliser, rows: np.ndarray, k: int) -> np.ndarray:
    """int64 (n, k): the nearest other items of the items ``rows`` by cosine, in any order."""
    query = torch.nn.functional.normalize(normaliser.rows(vectors[rows]))
    asked = torch.from_numpy(rows).to(query.device)
    best = torch.full((len(rows), 0), -2.0, device=query.device)
    found = torch.empty((len(rows), 0), dtype=torch.int64, device=query.device)
    for low in range(0, len(vectors), CHUNK):
        chunk = torch.nn.functional.normalize(normaliser.rows(vectors[low : low + CHUNK]))
        places = torch.arange(low, low + len(chunk), device=query.device)
        cosines = (query @ chunk.T).masked_fill_(asked[:, None] == places, -2)
        best = torch.cat([best, cosines], 1)
        found = torch.cat([found, places.expand(len(rows), -1)], 1)
        best, index = best.topk(min(k, best.shape[1]), 1)
        found = found.gather(1, index)
    return found.cpu().numpy()


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
