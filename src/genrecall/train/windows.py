"""Cutting histories into rows so that every event is a target exactly once an epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """N stretches of users' histories.

    Attributes:
        users: int64 (N,).
        begin, end: int64 (N,), events ``[begin, end)`` of the user, oldest first.
        first_target: int64 (N,); events ``[first_target, end)`` are targets, those before it context only.
    """

    users: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    first_target: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def targets(self) -> np.ndarray:
        """int64 (N,) how many events are targets."""
        return self.end - self.first_target


def cut(lengths: np.ndarray, *, capacity: int, context: int, seed: int, epoch: int) -> Windows:
    """Windows of at most ``capacity`` events, with borders that move from epoch to epoch.

    The first window of a long history has a random length, all later ones are full: at least ``context`` events before
    their first target, and more where the history's end leaves room.

    Args:
        lengths: int (U,) events of each user.
        capacity: events a row can hold.
        context: events, fewer than ``capacity``, repeated from the window before.
        seed, epoch: of the random borders.
    """
    assert 0 <= context < capacity
    lengths = np.asarray(lengths, dtype=np.int64)
    stride = capacity - context
    shift = np.random.default_rng((seed, epoch)).integers(0, stride, len(lengths))
    head = np.minimum(lengths, capacity - np.where(lengths > capacity, shift, 0))
    count = np.where(lengths > 0, 1 + -(-(lengths - head) // stride), 0)
    users = np.repeat(np.arange(len(lengths)), count)
    number = np.arange(len(users)) - np.repeat(np.cumsum(count) - count, count)
    first_target = np.where(number == 0, 0, head[users] + (number - 1) * stride)
    end = np.minimum(lengths[users], head[users] + number * stride)
    begin = np.where(number == 0, 0, np.maximum(end - capacity, 0))
    return Windows(users=users, begin=begin, end=end, first_target=first_target)


def singles(lengths: np.ndarray) -> Windows:
    """One window for each event, holding all that came before it: for prompts that cannot share a row."""
    lengths = np.asarray(lengths, dtype=np.int64)
    users = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(users)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Windows(users=users, begin=np.zeros_like(place), end=place + 1, first_target=place)


def batches(
    sizes: np.ndarray, *, budget: int, padded: bool, seed: int, epoch: int, alike: bool = True
) -> list[np.ndarray]:
    """Group rows under a budget of tokens, in random order.

    Args:
        sizes: int (N,) tokens of each row.
        budget: the most tokens of a batch; a row that is longer stands alone.
        padded: whether rows are filled up to the longest of their batch, which then counts.
        seed, epoch: of the order.
        alike: rows of one batch have similar sizes; else they are mixed, as rows of several tasks must be.
    """
    rng = np.random.default_rng((seed, epoch, 1))
    order = rng.permutation(len(sizes))
    # Sorting within chunks of many batches keeps rows of a batch alike and batches of an epoch different.
    chunk = max(1, 64 * budget // max(int(sizes.mean()) if len(sizes) else 1, 1))
    groups: list[np.ndarray] = []
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        if alike:
            part = part[np.argsort(sizes[part], kind="stable")]
        begin = used = 0
        for place, size in enumerate(sizes[part].tolist()):
            cost = size * (place - begin + 1) if padded else used + size
            if place > begin and cost > budget:
                groups.append(part[begin:place])
                begin, cost = place, size
            used = cost
        groups.append(part[begin:])
    return [groups[i] for i in rng.permutation(len(groups))]
