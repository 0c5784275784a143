"""Histories that nobody had, for teachers to answer: where there are few events, they show a student more of a teacher.

    row = (h_i : kept_i),  kept_i ~ Bernoulli(keep),  of a user's history but its last event;   or one item,  i ~ items

Labelled by the teacher alone, after Buciluă, Caruana & Niculescu-Mizil, "Model compression" (KDD 2006). We deviate from
their MUNGE: nothing is swapped between neighbours, because an item dropped from a history is still a likely history.
The last event stays out so that no row is what validation will ask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.catalog.histories import Histories, offsets_of
from genrecall.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ImaginedConfig:
    """How many histories are made up, and how.

    Attributes:
        ratio: places that a teacher answers, for each training event.
        share: of all targets of an epoch that are such places.
        alone: share of the places that are single items, any of the catalog.
        keep: chance of an event to stay in its history.
        seed: of all choices.
    """

    ratio: float = 1.0
    share: float = 0.5
    alone: float = 0.3
    keep: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ratio <= 0 or not 0 < self.share < 1 or not 0 <= self.alone <= 1 or not 0 < self.keep <= 1:
            raise ConfigError(
                "histories cannot be imagined like this",
                seen=f"ratio={self.ratio}, share={self.share}, alone={self.alone}, keep={self.keep}",
                allowed="ratio > 0, 0 < share < 1, 0 <= alone <= 1, 0 < keep <= 1",
                fix="correct ImaginedConfig",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Imagined:
    """Q rows; the last event of each only marks the place after the others, and says nothing.

    Attributes:
        rows: item sequences of at least two events.
        users: int64 (Q,) from whose history a row was made; -1: from nobody's.
    """

    rows: Histories
    users: np.ndarray


def imagine(histories: Histories, num_items: int, config: ImaginedConfig) -> Imagined:
    """Make rows up until teachers have ``ratio`` times as many places to answer as there are events."""
    rng = np.random.default_rng((config.seed, 11))
    wanted = int(config.ratio * len(histories.items))
    single = round(config.alone * wanted)
    items: list[np.ndarray] = []
    times: list[np.ndarray] = []
    users: list[int] = []
    able = np.flatnonzero(histories.lengths > 1)
    places = 0
    while places < wanted - single and len(able):
        for user in rng.permutation(able).tolist():
            past, when = histories.of(user)[:-1], histories.times_of(user)[:-1]
            kept = rng.random(len(past)) < config.keep
            kept[rng.integers(len(past))] = True
            items.append(past[kept])
            times.append(when[kept])
            users.append(user)
            places += int(kept.sum())
            if places >= wanted - single:
                break
    alone = np.resize(rng.permutation(num_items), wanted - places).astype(np.int32)
    items += list(alone[:, None])
    times += [np.zeros(1, np.int64)] * len(alone)
    users += [-1] * len(alone)
    rows = Histories(
        offsets=offsets_of(np.array([len(row) + 1 for row in items], dtype=np.int64)),
        items=np.concatenate([np.append(row, row[-1]) for row in items]).astype(np.int32),
        times=np.concatenate([np.append(row, row[-1]) for row in times]).astype(np.int64),
        timed=histories.timed,
    )
    return Imagined(rows=rows, users=np.array(users, dtype=np.int64))
