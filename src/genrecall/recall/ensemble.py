"""Several generators as one channel: each table's model scores the candidates of all.

    score(i | h) = (1 / G) Σ_g log p_g(SID_g(i) | h),    i ∈ ∪_g beam_g(h)

A product of experts over items (Hinton 2002). Different SID tables err differently, so that this is worth more than a
larger model (it is not the same as widening one beam). Deviation: only candidates that some beam reached are scored;
an item that a generator's trie lacks keeps the others' mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrecall.recall.channel import Candidates, Query
from genrecall.recall.generative import GenerativeChannel


class EnsembleChannel:
    """Generators over the same catalog.

    Args:
        members: one a SID table; at least one.
    """

    name = "generative"

    def __init__(self, members: Sequence[GenerativeChannel]) -> None:
        assert members, "an ensemble has members"
        self.members = tuple(members)

    @property
    def invalid_sid_rate(self) -> float:
        """Of all SIDs that the members wrote."""
        return max(member.invalid_sid_rate for member in self.members)

    def recall(self, queries: Sequence[Query], k: int, *, beams: Sequence[int] | None = None) -> Candidates:
        """The best ``k`` items of each query; ties by item index. ``beams``: W of each query, for every member."""
        if len(self.members) == 1:
            return self.members[0].recall(queries, k, beams=beams)
        found = [member.recall(queries, max(k, member.config.beam), beams=beams).items for member in self.members]
        unions = [union([items[row] for items in found]) for row in range(len(queries))]
        scores = [member.score(queries, unions) for member in self.members]
        items = np.full((len(queries), k), -1, dtype=np.int32)
        values = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for row, candidates in enumerate(unions):
            chosen, means = ranked(candidates, [scored[row] for scored in scores], k)
            items[row, : len(chosen)] = chosen
            values[row, : len(chosen)] = means
        return Candidates(items=items, scores=values)


def union(lists: Sequence[np.ndarray]) -> np.ndarray:
    """int (n,) items that any member found, ascending; -1 is padding."""
    found = np.unique(np.concatenate(list(lists)))
    return found[found >= 0]


def ranked(candidates: np.ndarray, scores: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best ``k`` of int (n,) candidates by the mean of the members' float32 (n,) scores, and these means."""
    mean = np.mean(scores, axis=0)
    order = np.lexsort((candidates, -mean))[:k]
    return candidates[order], mean[order]
