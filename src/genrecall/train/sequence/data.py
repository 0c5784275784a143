"""Histories as batches of rows, planned an epoch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrecall.catalog.histories import Histories, tie_order
from genrecall.errors import ConfigError, DataError
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.windows import cut


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """N rows for E events, where most events have nothing of their own: event e has row ``index[e]`` of ``rows``.

    Attributes:
        index: int32 (E,), an array or a tensor.
        rows: (N, ...), the same.
    """

    index: Any
    rows: Any

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, events: Any) -> Any:
        """The rows of these events, whatever their shape."""
        return self.rows[self.index[events]]

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return int(self.index.nbytes + self.rows.nbytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceData:
    """What is learnt from; arrays may be memory-mapped.

    Attributes:
        histories: E training events of U users.
        beside_targets: arrays (E, ...) by name: row e belongs to event e when it is a target (a teacher's items and
            weights, say).
        beside_users: arrays (U, ...) by name (profile features, say).
        timed: whether batches carry times.
        context: int (U,) how many events at each user's beginning are never targets; None: one.
        pool: the last so many users only take turns (they stand for questions that were made up, say) ...
        drawn: ... so many of them an epoch.
    """

    histories: Histories
    beside_targets: Mapping[str, np.ndarray | Shared] = field(default_factory=dict)
    beside_users: Mapping[str, np.ndarray] = field(default_factory=dict)
    timed: bool = False
    context: np.ndarray | None = None
    pool: int = 0
    drawn: int = 0

    def __post_init__(self) -> None:
        events, users = len(self.histories.items), len(self.histories)
        assert all(len(array) == events for array in self.beside_targets.values()), "one row an event"
        assert all(len(array) == users for array in self.beside_users.values()), "one row a user"
        assert 0 <= self.drawn <= self.pool <= users, "what is drawn is in the pool"
        assert not set(self.beside_targets) & set(self.beside_users), "one name, one array"
        if (self.histories.lengths < 2).all():
            raise DataError(
                "there is no sequence to train on",
                seen=f"{users} users, {events} events, none of a user with two",
                allowed="at least one user with two events",
                fix="check the split, or import more events",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """One epoch.

    Attributes:
        shape: int (N,) which of the configuration's shapes each batch has.
        place: int (N,) which of its shape's batches it is.
        rows: for each shape int64 (n, B, 4): first event, end, first target (places in the event arrays), user.
            Rows of zeros fill a batch.
        items: int32 (E,) the events' items in this epoch's order; None: as they were.
    """

    shape: np.ndarray
    place: np.ndarray
    rows: tuple[np.ndarray, ...]
    items: np.ndarray | None

    def __len__(self) -> int:
        return len(self.shape)

    def targets(self, batch: int) -> int:
        """How many targets a batch has."""
        rows = self.rows[self.shape[batch]][self.place[batch]]
        return int((rows[:, 1] - rows[:, 2]).sum())


def plan(data: SequenceData, config: SequenceConfig, epoch: int) -> Plan:
    """Batches in which every event after its user's first is a target exactly once, in random order.

    Events within a user's ``context`` are no targets, nor are those of the pool's users whose turn it is not.
    What does not fill a batch of its length goes on to the next longer one, so one batch an epoch is not full.
    """
    histories = data.histories
    context = max(1, min(int(config.overlap * config.window), config.window - 1))
    windows = cut(histories.lengths, capacity=config.window + 1, context=context, seed=config.seed, epoch=epoch)
    start = histories.offsets[windows.users]
    first_target = np.maximum(windows.first_target, 1 if data.context is None else data.context[windows.users])
    rows = np.stack([start + windows.begin, start + windows.end, start + first_target, windows.users], axis=1)
    rows = rows[(windows.end > first_target) & _takes_part(data, config, epoch)[windows.users]]
    rng = np.random.default_rng((config.seed, epoch, 2))
    rows = rng.permutation(rows)
    inputs = rows[:, 1] - rows[:, 0] - 1
    shapes = config.shapes
    fits = np.searchsorted([length for _, length in shapes], inputs)
    grouped: list[np.ndarray] = []
    left = rows[:0]
    for number, (size, _) in enumerate(shapes):
        pool = np.concatenate([left, rows[fits == number]])
        last = number == len(shapes) - 1
        full = -(-len(pool) // size) if last else len(pool) // size
        left = pool[full * size :]
        filled = np.concatenate([pool[: full * size], np.zeros((max(full * size - len(pool), 0), 4), np.int64)])
        grouped.append(filled.reshape(full, size, 4))
    shape = np.repeat(np.arange(len(shapes)), [len(group) for group in grouped])
    place = np.concatenate([np.arange(len(group)) for group in grouped])
    order = rng.permutation(len(shape))
    return Plan(shape=shape[order], place=place[order], rows=tuple(grouped), items=_shuffled(data, config, epoch))


def _takes_part(data: SequenceData, config: SequenceConfig, epoch: int) -> np.ndarray:
    """bool (U,): all but the pool, and those of the pool whose turn it is; nobody has a turn more than the others."""
    taken = np.ones(len(data.histories), dtype=bool)
    if data.pool:
        taken[-data.pool :] = False
        turn = np.random.default_rng((config.seed, 3)).permutation(data.pool)
        taken[len(taken) - data.pool + turn[(epoch * data.drawn + np.arange(data.drawn)) % data.pool]] = True
    return taken


def _shuffled(data: SequenceData, config: SequenceConfig, epoch: int) -> np.ndarray | None:
    histories = data.histories
    if not (config.reshuffle_ties and histories.timed):
        return None
    if data.beside_targets:
        raise ConfigError(
            "ties cannot be shuffled where targets have a teacher",
            seen=f"reshuffle_ties with {', '.join(data.beside_targets)}",
            allowed="one of the two: what a teacher says depends on the order",
            fix="train with reshuffle_ties=False",
        )
    rows = histories.rows
    seed = config.seed + 1_000_003 * (epoch + 1)
    order = tie_order(rows, rows.astype(np.uint64), histories.items, histories.times, seed)
    return histories.items[order]
