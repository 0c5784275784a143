"""Teachers out of fold: what channels expect after each prefix of histories that they were not fitted on.

    teacher(i | h) ∝ ( Σ_c w_c · P_c(i | h) )^γ,    P_c over its k best,    weight of i in the loss: τ · teacher(i | h)

A channel that has seen the answer says the answer; one fitted on other users' histories says what it would say of a new
user. Cross-fitting after Wolpert, "Stacked generalization" (1992), for distillation as in ``train.trunk``. We deviate:
counts of all users but a tenth stand for leave-one-out, which would need a matrix for every user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.telemetry import progress
from genrecall.train.sequence.soft import SoftTargets

_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """How teachers' answers become soft targets.

    Attributes:
        trust: τ, share of the loss that the teacher decides, where it has an answer.
        sharpness: γ.
        items: K, the most items that are kept of it.
        last: only each user's last so many events get a teacher; earlier ones are learnt from as they are.
        removed: whether lists leave out the history's items.
        future: weights, beside 1 for the event itself, of the user's events after it: what comes a little later is no
            wrong answer.
        seed: of the folds.
    """

    trust: float = 0.6
    sharpness: float = 1.5
    items: int = 24
    last: int = 100
    removed: bool = True
    future: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "future", tuple(self.future))
        if not 0 < self.trust <= 1 or self.sharpness <= 0 or self.items < 1 or self.last < 1:
            raise ConfigError(
                "a teacher cannot teach like this",
                seen=f"trust={self.trust}, sharpness={self.sharpness}, items={self.items}, last={self.last}",
                allowed="0 < trust <= 1, sharpness > 0, items and last at least 1",
                fix="correct TeacherConfig",
            )


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """One channel among the teachers.

    Attributes:
        name: in the manifest.
        fit: makes the channel from training histories.
        folds: how many times it is fitted, each time without one part of the users.
        weight: w.
        log_scores: whether its scores are logits; else they are proportional to probabilities.
    """

    name: str
    fit: Callable[[Histories], Channel]
    folds: int
    weight: float = 1.0
    log_scores: bool = False

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(
                "a teacher out of fold needs another fold to learn from",
                seen=f"{self.folds} folds for {self.name}",
                allowed="2 or more",
                fix="raise the number of folds, or leave this teacher out",
            )


def soft_targets(
    teachers: Sequence[Teacher], histories: Histories, config: TeacherConfig, *, digest: str = ""
) -> SoftTargets:
    """Ask every teacher of every event that has a past; without a teacher, the user's next events are all there is."""
    if not teachers:
        none = np.empty((len(histories.items), 0))
        alone = SoftTargets(items=none.astype(np.int32), weights=none.astype(np.float16), digest=digest)
        return _with_future(alone, histories, config)
    asked = _asked(histories, config)
    many, k = len(histories.items), 2 * config.items
    items = np.full((many, len(teachers) * k), -1, dtype=np.int32)
    shares = np.zeros((many, len(teachers) * k), dtype=np.float32)
    total = sum(teacher.weight for teacher in teachers)
    for number, teacher in enumerate(teachers):
        own = slice(number * k, (number + 1) * k)
        fold_of = np.random.default_rng((config.seed, number)).integers(teacher.folds, size=len(histories))
        with progress(f"teacher {teacher.name}", len(asked)) as bar:
            for fold in range(teacher.folds):
                channel = teacher.fit(histories.select(fold_of[histories.rows] != fold))
                mine = asked[fold_of[histories.rows[asked]] == fold]
                for begin in range(0, len(mine), _BATCH):
                    events = mine[begin : begin + _BATCH]
                    found = channel.recall(_queries(histories, events, config), k)
                    items[events, own] = found.items
                    shares[events, own] = teacher.weight / total * _shares(found, teacher.log_scores)
                    bar.advance(len(events))
    return _with_future(mixed(items, shares, config, digest), histories, config)


def _asked(histories: Histories, config: TeacherConfig) -> np.ndarray:
    """int64 places of the events that a teacher is asked of: all but a user's first, of each user the last ones."""
    place = np.arange(len(histories.items))
    rows = histories.rows
    return np.flatnonzero((place > histories.offsets[rows]) & (place >= histories.offsets[rows + 1] - config.last))


def _queries(histories: Histories, events: np.ndarray, config: TeacherConfig) -> list[Query]:
    queries = []
    for event, begin in zip(events.tolist(), histories.offsets[histories.rows[events]].tolist(), strict=True):
        past = histories.items[begin:event]
        queries.append(
            Query(
                history=past,
                times=histories.times[begin:event] if histories.timed else None,
                exclude=np.unique(past) if config.removed else np.empty(0, np.int32),
            )
        )
    return queries


def _shares(found: Candidates, log_scores: bool) -> np.ndarray:
    """float32 (R, k) that sum to 1 in each row with an answer, 0 elsewhere."""
    scores = np.where(found.items >= 0, found.scores, -np.inf).astype(np.float64)
    if log_scores:
        top = np.max(scores, axis=1, keepdims=True)
        scores = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    mass = np.where(np.isfinite(scores) & (scores > 0), scores, 0.0)
    return (mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)).astype(np.float32)


def _with_future(soft: SoftTargets, histories: Histories, config: TeacherConfig) -> SoftTargets:
    """Share what the teacher leaves to the event itself with the user's next events."""
    rows, many = histories.rows, len(histories.items)
    later = [np.arange(many) + ahead + 1 for ahead in range(len(config.future))]
    there = [(event < many) & (rows[np.minimum(event, many - 1)] == rows) for event in later]
    if not later:
        return soft
    weights = np.stack([exists * weight for exists, weight in zip(there, config.future, strict=True)], axis=1)
    left = 1 - soft.weights.astype(np.float32).sum(1, keepdims=True)
    own = (left * weights / (1 + weights.sum(1, keepdims=True))).astype(np.float16)
    items = np.stack([histories.items[np.minimum(event, many - 1)] for event in later], axis=1)
    return SoftTargets(
        items=np.concatenate([soft.items, items.astype(np.int32)], axis=1),
        weights=np.concatenate([soft.weights, own], axis=1),
        digest=soft.digest,
    )


def mixed(items: np.ndarray, shares: np.ndarray, config: TeacherConfig, digest: str) -> SoftTargets:
    """Add up the shares of equal items, keep the best K, sharpen."""
    order = np.argsort(items, axis=1, kind="stable")
    items, shares = np.take_along_axis(items, order, 1), np.take_along_axis(shares, order, 1)
    for column in range(items.shape[1] - 1, 0, -1):  # the first of equal items takes what the others have
        same = (items[:, column] == items[:, column - 1]) & (items[:, column] >= 0)
        shares[:, column - 1] += shares[:, column] * same
        shares[:, column] *= ~same
    best = np.argsort(-shares, axis=1, kind="stable")[:, : config.items]
    items, shares = np.take_along_axis(items, best, 1), np.take_along_axis(shares, best, 1)
    sharp = np.where(items >= 0, shares, 0.0).astype(np.float64) ** config.sharpness
    sharp /= np.maximum(sharp.sum(1, keepdims=True), 1e-30)
    weights = (config.trust * sharp).astype(np.float16)
    return SoftTargets(items=np.maximum(items, 0).astype(np.int32), weights=weights, digest=digest)
