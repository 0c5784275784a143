"""Cases in groups: by how well known the target is, and by how much is known of the user.

    cold: no training event;  head: the most popular 20 % of the other items;  torso: the next 30 %;  tail: the rest

The 20 % are Pareto's, as in Abdollahpouri, Burke & Mobasher, "Managing popularity bias" (FLAIRS 2019). Deviation: the
bins hold shares of items, not of events, and cold items form their own bin. Equal counts are split by index. A user is
new with a history of at most two events.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

HEAD_SHARE, TORSO_SHARE = 0.2, 0.3
POPULARITY_BINS = ("head", "torso", "tail", "cold")
HISTORY_EDGES = (0, 1, 5, 10, 20, 50)
NEW_USER_EVENTS = 2
POPULARITY, HISTORY, USER = "target popularity", "history length", "user"


def popularity_bins(train_counts: np.ndarray) -> np.ndarray:
    """int8 (I,) positions in ``POPULARITY_BINS`` from training counts (I,)."""
    order = np.lexsort((np.arange(len(train_counts)), -train_counts))
    known = int(np.count_nonzero(train_counts > 0))
    head, torso = int(np.ceil(known * HEAD_SHARE)), int(np.ceil(known * (HEAD_SHARE + TORSO_SHARE)))
    bins = np.full(len(train_counts), POPULARITY_BINS.index("tail"), dtype=np.int8)
    bins[order[:head]] = POPULARITY_BINS.index("head")
    bins[order[head:torso]] = POPULARITY_BINS.index("torso")
    bins[train_counts == 0] = POPULARITY_BINS.index("cold")
    return bins


def history_labels() -> list[str]:
    """``0``, ``1-4``, …, ``50+``."""
    labels = []
    for low, after in zip(HISTORY_EDGES, (*HISTORY_EDGES[1:], None), strict=True):
        labels.append(f"{low}+" if after is None else str(low) if after == low + 1 else f"{low}-{after - 1}")
    return labels


def slice_masks(targets: np.ndarray, lengths: np.ndarray, train_counts: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Masks (N,) by group and slice; slices without cases are left out.

    Args:
        targets: int (N,) items.
        lengths: int (N,) history lengths.
        train_counts: int (I,) training events by item.
    """
    of_target = popularity_bins(train_counts)[targets]
    of_length = np.searchsorted(HISTORY_EDGES, lengths, side="right") - 1
    groups = {
        POPULARITY: {name: of_target == place for place, name in enumerate(POPULARITY_BINS)},
        HISTORY: {name: of_length == place for place, name in enumerate(history_labels())},
        USER: {"new": lengths <= NEW_USER_EVENTS, "known": lengths > NEW_USER_EVENTS},
    }
    return occupied(groups)


def occupied(groups: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Without empty slices, and without the user's group where it says nothing (no new users, or only new ones)."""
    kept = {group: {name: mask for name, mask in masks.items() if mask.any()} for group, masks in groups.items()}
    return {group: masks for group, masks in kept.items() if group != USER or len(masks) > 1}
