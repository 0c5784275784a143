"""What a channel adds that the others do not have.

    lost(c) = Recall@k(all channels) − Recall@k(all but c),      only(c) = share of targets that c alone lists

Leave-one-out attribution (Ng & Kantor, "Predicting the effectiveness of naive data fusion", JASIS 2000, asks the same
of pairs). Deviation: the fusion is not fitted again, so that the figure is also what is lost when a channel is late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from genrecall.recall.channel import Candidates
from genrecall.recall.fusion.rule import Fusion
from genrecall.recall.tuning import ndcg


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One channel's part in a fusion.

    Attributes:
        recall_lost: Recall@k that is lost without the channel.
        ndcg_lost: NDCG@k that is lost.
        only: share of all targets that stand in its list and in no other channel's.
    """

    recall_lost: float
    ndcg_lost: float
    only: float


def contributions(
    fusion: Fusion,
    candidates: Mapping[str, Candidates],
    targets: np.ndarray,
    *,
    lengths: np.ndarray | None = None,
    k: int = 10,
) -> dict[str, Contribution]:
    """Each channel's part, by name.

    Args:
        fusion: fitted.
        candidates: each channel's lists for the same N cases, by name.
        targets: int (N,) the cases' answers.
        lengths: int (N,) events in each history.
        k: cut-off.
    """
    top = fusion.config.top
    lists = {name: candidates[name] for name in fusion.config.channels}
    hit = np.logical_or.reduce([(one.items[:, :top] == targets[:, None]).any(axis=1) for one in lists.values()])
    pool = fusion.pool({name: Candidates(items=one.items[hit], scores=one.scores[hit]) for name, one in lists.items()})
    goals, of_hits = pool.find(targets[hit]), None if lengths is None else lengths[hit]
    share = len(goals) / len(targets)
    listed = pool.ranks[goals] > 0
    whole = _figures(pool.places(fusion.values(pool, of_hits), goals), k)
    found = {}
    for channel, name in enumerate(fusion.config.channels):
        rest = pool.without(channel)
        still = np.where(rest.known[goals], goals, -1)
        recall, gain = whole - _figures(rest.places(fusion.values(rest, of_hits), still), k)
        only = listed[:, channel] & (listed.sum(axis=1) == 1)
        found[name] = Contribution(
            recall_lost=float(recall * share), ndcg_lost=float(gain * share), only=float(only.sum() / len(targets))
        )
    return found


def _figures(places: np.ndarray, k: int) -> np.ndarray:
    return np.array([((places > 0) & (places <= k)).mean(), ndcg(places, k)])
