"""An answer in random order, now and then: what off-policy evaluation learns from.

    p(item a at place k) = (1 − ε) · [a stands at k anyway] + ε / K

Uniform exploration over the K items that would have been answered: nobody sees an item that was not good enough, only
its place changes, and every item-position pair of the list has a chance that is known (Li et al., KDD 2018).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def explored(listed: Sequence[T], explore: float, seed: str) -> tuple[list[T], list[float]]:
    """A list as it is shown, and how likely each item stood where it stands.

    Args:
        listed: K items, best first, distinct.
        explore: ε.
        seed: of the draw; the same one shows the same list.
    """
    draw = random.Random(seed)
    order = list(range(len(listed)))
    if draw.random() < explore:
        draw.shuffle(order)
    usual = np.arange(len(listed))[None]
    chances = propensities(np.array(order, dtype=np.int64)[None], usual, explore)[0]
    return [listed[place] for place in order], chances.tolist()


def propensities(shown: np.ndarray, usual: np.ndarray, explore: float) -> np.ndarray:
    """float (R, K): how likely each of ``shown`` (R, K) stood at its place; ``usual`` (R, K) is the order else."""
    return np.where(shown == usual, 1 - explore, 0.0) + explore / max(shown.shape[1], 1)
