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

_QUERIES_AT_ONCE = 64


def neighbour_overlap(
    sids: np.ndarray, vectors: np.ndarray, normaliser: Normaliser, *, neighbours: int, queries: int, seed: int
) -> dict[str, Any]:
    """Neighbours by longest common SID prefix against neighbours by cosine, on a seeded sample of items."""
    items = len(sids)
    k = min(neighbours, items - 1)
    if k < 1:
        return {"k": 0, "queries": 0, "overlap": 0.0, "chance": 0.0}
    chosen = np.sort(np.random.default_rng(seed).permutation(items)[:queries])
    total = 0.0
    for low in range(0, len(chosen), _QUERIES_AT_ONCE):
        rows = chosen[low : low + _QUERIES_AT_ONCE]
        near = np.argpartition(-_cosines(vectors, normaliser, rows), k - 1, axis=1)[:, :k]
        shared = common_prefix(sids, rows)
        for line, neighbours in zip(shared, near, strict=True):
            at = np.bincount(line + 1, minlength=sids.shape[1] + 2)[
                1:
            ]  # items by shared levels; the query itself is −1
            longer = at[::-1].cumsum()[::-1] - at
            drawn = np.clip((k - longer) / np.maximum(at, 1), 0, 1)
            total += float(drawn[line[neighbours]].sum())
    return {"k": k, "queries": len(chosen), "overlap": total / (k * len(chosen)), "chance": k / (items - 1)}


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
