"""New items in another channel's lists: a bonus for what nobody could have chosen yet.

    score'(i | h) = log p(i | h) + b · [i is new],    b: the least for which new items fill their share of the places

A model that learnt from behaviour knows no demand for items that have none yet. The allowance follows the exploration
budget for cold items of TIGER (Rajput et al., NeurIPS 2023), which gives them places of a list. We deviate: it is one
number added to log-probabilities, chosen so that new items have as large a share of the places as of the catalog; for
that it takes histories alone, and no target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrecall.recall.channel import Candidates, Channel, Query

_STEPS, _LARGEST = 30, 20.0


class PromotingChannel:
    """Another channel's candidates, the new ones among them moved up.

    Args:
        channel: whose scores are log-probabilities of items.
        new: bool (I,).
        bonus: b, in nats.
        among: how many candidates are asked for, at least; new items that are not among them cannot move up.
    """

    name = "promoting"

    def __init__(self, channel: Channel, new: np.ndarray, bonus: float, *, among: int) -> None:
        self.channel, self.new, self.bonus, self.among = channel, new, bonus, among

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query; ties as the other channel has them."""
        return promoted(self.channel.recall(queries, max(k, self.among)), self.new, self.bonus, k)


def promoted(found: Candidates, new: np.ndarray, bonus: float, k: int) -> Candidates:
    """Candidates (R, n) with the bonus, the best ``k`` of them."""
    there = found.items >= 0
    gift = np.float32(bonus) * (new[np.maximum(found.items, 0)] & there)
    scores = np.where(there, found.scores + gift, -np.inf).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Candidates(items=np.take_along_axis(found.items, order, 1), scores=np.take_along_axis(scores, order, 1))


def fair_bonus(found: Candidates, new: np.ndarray, k: int) -> float:
    """The least b for which new items have as large a share of the first ``k`` places as of the catalog.

    Args:
        found: of some queries, more than ``k`` candidates each.
        new: bool (I,).
        k: length of the lists that are shown.

    Returns:
        At least 0: nobody is held back. Where the candidates hold too few new items, the b that brings most of them up.
    """

    def share(bonus: float) -> float:
        items = promoted(found, new, bonus, k).items
        return float(new[items[items >= 0]].mean()) if (items >= 0).any() else 0.0

    goal = min(float(new.mean()), share(_LARGEST))
    low, high = 0.0, _LARGEST
    if share(low) >= goal:
        return 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if share(middle) >= goal else (middle, high)
    return high
