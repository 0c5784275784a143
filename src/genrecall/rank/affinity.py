"""How a candidate goes with a history, by counts of training events: a number before anything is learnt.

    affinity(j | h) = ln(floor + Σ_{a < last} decay^a · M[h_a, j])             a = 0 is the newest item of the history

Item-based top-N (Deshpande & Karypis, TOIS 2004) told to a ranker as what click-through models call a statistical
feature. Deviation: the logarithm, because differences between a request's candidates are all that a ranker weighs, and
they are worth the same wherever the scale of M lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.rank.columns import Ragged
from genrecall.rank.schema import Affinity

_SCATTERED = 1 << 16
"""Items up to which summing for all of them is faster than looking for the wanted ones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Relation:
    """M by rows: ``items`` int32 that each of I items goes with, none twice, and how much, float32 as many."""

    items: Ragged
    values: np.ndarray


def weights_of(told: Affinity) -> np.ndarray:
    """float64 (last,), the newest item's last."""
    return np.asarray(told.decay ** np.arange(told.last, dtype=np.float64)[::-1])


def affinity(told: Affinity, relation: Relation, histories: Ragged, candidates: Ragged) -> np.ndarray:
    """float32 (P,) of R histories and the P candidates of each; a request answers in a batch as it does alone."""
    newest = histories.newest(told.last)
    weights = weights_of(told)
    begins = relation.items.offsets[newest.values]
    lengths = relation.items.offsets[newest.values + 1] - begins
    found = np.empty(len(candidates.values))
    for row in range(len(histories)):
        old, new = newest.offsets[row : row + 2]
        own = lengths[old:new]
        ends = np.cumsum(own)
        where = np.arange(own.sum()) + np.repeat(begins[old:new] - ends + own, own)
        said = np.repeat(weights[told.last - (new - old) :], own) * relation.values[where]
        begin, end = candidates.offsets[row : row + 2]
        found[begin:end] = sums(relation.items.values[where], said, candidates.values[begin:end], len(relation.items))
    return np.log(told.floor + found).astype(np.float32)


def sums(items: np.ndarray, values: np.ndarray, wanted: np.ndarray, many: int) -> np.ndarray:
    """float64 (n,) sums of ``values`` by their items, of the items ``wanted`` (n,); the same bits for any ``many``."""
    if many <= _SCATTERED or len(wanted) == 0:
        return np.bincount(items, values, many)[wanted]
    ordered = np.sort(wanted)
    at = np.minimum(np.searchsorted(ordered, items), len(ordered) - 1)
    there = ordered[at] == items
    return np.bincount(at[there], values[there], len(ordered))[np.searchsorted(ordered, wanted)]
