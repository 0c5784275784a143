"""What recall and the generator say of candidates: the evidence that a ranker reads, made in one place.

    fusion(j) = value(j) − max value      near.<channel>(j) = 1 / (place + 5), 0 where it is not listed
    sid_score(j) = (1/G) Σ_g log p_g(SID_g(j) | prompt)

The nearness of ``recall.fusion.features``. Deviation: fused values are told by their distance to the best one, since a
constant means nothing in a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.rank.columns import Ragged
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.ensemble import EnsembleChannel
from genrecall.recall.fusion import Fusion
from genrecall.recall.generative import GenerativeChannel

FUSION, SID_SCORE, NEAR = "fusion", "sid_score", "near."
_PLACE = 5.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Recalled:
    """Fused lists of R requests, P candidates in all, best first.

    Attributes:
        candidates: int32 items; R lists.
        scores: float32 (P,) of the fusion.
        places: int (P,) from 1 by channel; 0 where it does not list the item, -1 where that is not known.
    """

    candidates: Ragged
    scores: np.ndarray
    places: Mapping[str, np.ndarray]

    def evidence(self, names: Sequence[str], sid_scores: np.ndarray | None = None) -> np.ndarray:
        """float32 (P, F) in the order of ``names``; NaN for what is not known.

        Args:
            names: of the evidence.
            sid_scores: float32 (P,) of the generator; not finite: it does not know the item.
        """
        found = np.full((len(self.scores), len(names)), np.nan, np.float32)
        begin, lengths = self.candidates.offsets[:-1], self.candidates.lengths
        for column, name in enumerate(names):
            if name == FUSION:
                first = np.repeat(self.scores[np.minimum(begin, max(len(self.scores) - 1, 0))], lengths)
                found[:, column] = self.scores - first
            elif name == SID_SCORE and sid_scores is not None:
                found[:, column] = np.where(np.isfinite(sid_scores), sid_scores, np.nan)
            elif (place := self.places.get(name.removeprefix(NEAR))) is not None:
                near = (place > 0) / (np.maximum(place, 1) + _PLACE)
                found[:, column] = np.where(place < 0, np.nan, near)
        return found


def evidence_names(channels: Sequence[str]) -> tuple[str, ...]:
    """All evidence of lists that these channels were fused to."""
    return (FUSION, SID_SCORE, *(NEAR + name for name in channels))


def recalled(fusion: Fusion, lists: Mapping[str, Candidates], k: int, lengths: np.ndarray) -> Recalled:
    """The best ``k`` items of each request's fused lists; ``lengths`` int (R,) are events in the histories."""
    pool = fusion.pool(lists, k)
    best = pool.best(fusion.values(pool, lengths), k)
    there = best.items >= 0
    stride = max(len(pool.popularity), 1)
    keys = np.arange(len(best.items))[:, None] * stride + best.items
    where = np.searchsorted(pool.rows * stride + pool.items, keys[there])
    return Recalled(
        candidates=Ragged(
            offsets=np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int64), values=best.items[there]
        ),
        scores=best.scores[there],
        places={name: pool.ranks[where, place] for place, name in enumerate(fusion.config.channels)},
    )


def read_candidates(
    generator: GenerativeChannel | EnsembleChannel, queries: Sequence[Query], candidates: Ragged
) -> tuple[np.ndarray, np.ndarray]:
    """SID scores float32 (P,), and states float32 (R, E) of the first generator, of candidates that R queries have."""
    items = np.split(candidates.values, candidates.offsets[1:-1])
    first, *others = generator.members
    found = first.read(queries, items)
    scores = [np.concatenate([one.scores for one in found])]
    scores += [np.concatenate(member.score(queries, items)) for member in others]
    return np.asarray(np.mean(scores, axis=0, dtype=np.float32)), np.stack([one.state for one in found])
