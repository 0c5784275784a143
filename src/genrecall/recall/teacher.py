"""Teachers out of fold: what channels expect after each prefix of histories that they were not fitted on.

    teacher(i | h) ∝ exp(γ v(i | h)),    v: the value of candidate i in a fusion of the teachers' lists
    weight of i in the loss: τ · teacher(i | h)

A channel that has seen the answer says the answer; one fitted on other users' histories says what it would say of a new
user. Cross-fitting after Wolpert, "Stacked generalization" (1992), for distillation as in ``train.trunk``. We deviate:
counts of all users but a tenth stand for leave-one-out, which would need a matrix for every user; and the fusion is one
that was fitted on validation cases, or, without one, the logarithm of the weighted sum of the teachers' probabilities.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.fusion import Fusion
from genrecall.recall.imagined import Imagined
from genrecall.telemetry import Bar, log, progress
from genrecall.train.sequence.soft import SoftTargets

_BATCH = 4096
_NOTHING = np.empty(0, np.int32)
_ASKING = 3
"""Teachers that answer at the same time."""
_FUSING = 8
"""Batches that are fused at the same time; each takes some hundred megabytes."""


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
        name: the channel's.
        fit: makes the channel from training histories.
        folds: how many times it is fitted, each time without one part of the users; 1 asks it as it is, which is right
            for channels that learn nothing from behaviour.
        weight: w, where there is no fusion.
        log_scores: whether its scores are logits; else they are proportional to probabilities.
    """

    name: str
    fit: Callable[[Histories], Channel]
    folds: int
    weight: float = 1.0
    log_scores: bool = False


def soft_targets(
    teachers: Sequence[Teacher],
    histories: Histories,
    config: TeacherConfig,
    *,
    fusion: Fusion | None = None,
    imagined: Imagined | None = None,
) -> SoftTargets:
    """Ask every teacher of every event that has a past; without a teacher, the user's next events are all there is.

    Args:
        teachers: any number.
        histories: training events.
        config: settings.
        fusion: of channels with the teachers' names, whose values are logits (method ``learned``).
        imagined: rows that are asked about, too; what stands in them is trusted wholly to the teachers.

    Returns:
        A row for each event of the histories, then for each event of the imagined rows.
    """
    every = histories if imagined is None else histories.followed_by(imagined.rows)
    many, real = len(every.items), len(histories.items)
    items = np.zeros((many, config.items if teachers else 0), dtype=np.int32)
    weights = np.zeros(items.shape, dtype=np.float16)
    if teachers:
        events = _asked(every, config)
        users = np.arange(len(histories))
        owners = users if imagined is None else np.concatenate([users, imagined.users])
        asked = _Asked(queries=_queries(every, events, config), owners=owners[every.rows[events]])
        lists = _lists(teachers, histories, asked, config)
        lengths = events - every.offsets[every.rows[events]]

        def settle(begin: int) -> None:
            part = slice(begin, begin + _BATCH)
            found = {name: Candidates(items=c.items[part], scores=c.scores[part]) for name, c in lists.items()}
            best = (
                _mixed(teachers, found, config) if fusion is None else fusion.fuse(found, config.items, lengths[part])
            )
            shares = _softmax(best, config.sharpness)
            items[events[part]] = np.maximum(best.items, 0)
            weights[events[part]] = shares * np.where(events[part] < real, config.trust, 1.0)[:, None]

        with ThreadPoolExecutor(min(_FUSING, os.cpu_count() or 1)) as pool:
            list(pool.map(settle, range(0, len(events), _BATCH)))
    return _with_future(SoftTargets(items=items, weights=weights), every, config)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """What teachers are asked, made once for all of them, and the training row of each query's user (−1: nobody)."""

    queries: list[Query]
    owners: np.ndarray

    def __len__(self) -> int:
        return len(self.queries)


def _lists(
    teachers: Sequence[Teacher], histories: Histories, asked: _Asked, config: TeacherConfig
) -> dict[str, Candidates]:
    """Every teacher's lists, by name, from a few threads: more of them only wait for each other's Python."""
    in_turn = reversed(list(enumerate(teachers)))  # the last one may have to be trained, so it starts first
    with (
        progress("teachers", len(teachers) * len(asked)) as bar,
        ThreadPoolExecutor(min(_ASKING, os.cpu_count() or 1)) as pool,
    ):
        waited = [
            (teacher.name, pool.submit(_out_of_fold, teacher, number, histories, asked, config, bar))
            for number, teacher in in_turn
        ]
        found = {name: answer.result() for name, answer in waited}
        return {teacher.name: found[teacher.name] for teacher in teachers}


def _out_of_fold(
    teacher: Teacher, number: int, histories: Histories, asked: _Asked, config: TeacherConfig, bar: Bar
) -> Candidates:
    """The teacher's lists for all events that are asked, in their order."""
    k = 2 * config.items
    items = np.full((len(asked), k), -1, dtype=np.int32)
    scores = np.full((len(asked), k), -np.inf, dtype=np.float32)
    fold_of = np.random.default_rng((config.seed, number)).integers(teacher.folds, size=len(histories))
    fold_asked = np.where(asked.owners >= 0, fold_of[asked.owners], np.arange(len(asked)) % teacher.folds)
    fitting, start = 0.0, time.perf_counter()
    for fold in range(teacher.folds):
        before = time.perf_counter()
        others = histories if teacher.folds == 1 else histories.select(fold_of[histories.rows] != fold)
        channel = teacher.fit(others)
        fitting += time.perf_counter() - before
        mine = np.flatnonzero(fold_asked == fold)
        for begin in range(0, len(mine), _BATCH):
            places = mine[begin : begin + _BATCH]
            found = channel.recall([asked.queries[place] for place in places.tolist()], k)
            items[places], scores[places] = found.items, found.scores
            bar.advance(len(places))
    told = time.perf_counter() - start - fitting
    log(f"teacher {teacher.name}: {teacher.folds} fits in {fitting:.1f} s, {len(asked):,} lists in {told:.1f} s")
    return Candidates(items=items, scores=scores)


def _asked(histories: Histories, config: TeacherConfig) -> np.ndarray:
    """int64 places of the events that a teacher is asked of: all but a user's first, of each user the last ones."""
    place = np.arange(len(histories.items))
    rows = histories.rows
    return np.flatnonzero((place > histories.offsets[rows]) & (place >= histories.offsets[rows + 1] - config.last))


def _queries(histories: Histories, events: np.ndarray, config: TeacherConfig) -> list[Query]:
    """What each of these events' users had done before it."""
    queries = []
    for event, begin in zip(events.tolist(), histories.offsets[histories.rows[events]].tolist(), strict=True):
        past = histories.items[begin:event]
        queries.append(
            Query(
                history=past,
                times=histories.times[begin:event] if histories.timed else None,
                exclude=past if config.removed else _NOTHING,
            )
        )
    return queries


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


def _mixed(teachers: Sequence[Teacher], found: Mapping[str, Candidates], config: TeacherConfig) -> Candidates:
    """The K items with the largest weighted sum of probabilities, scored by its logarithm."""
    total = sum(teacher.weight for teacher in teachers)
    items = np.concatenate([found[teacher.name].items for teacher in teachers], axis=1)
    shares = np.concatenate(
        [teacher.weight / total * _shares(found[teacher.name], teacher.log_scores) for teacher in teachers], axis=1
    )
    return best_of(items, shares, config.items)


def best_of(items: np.ndarray, shares: np.ndarray, k: int) -> Candidates:
    """Add up the shares (R, n) of equal items (R, n; −1: none) and keep the ``k`` largest sums, as logarithms."""
    order = np.argsort(items, axis=1, kind="stable")
    items, shares = np.take_along_axis(items, order, 1), np.take_along_axis(shares, order, 1)
    for column in range(items.shape[1] - 1, 0, -1):  # the first of equal items takes what the others have
        same = items[:, column] == items[:, column - 1]
        shares[:, column - 1] += shares[:, column] * same
        shares[:, column] *= ~same
    shares = np.where(items >= 0, shares, 0.0)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :k]
    items, shares = np.take_along_axis(items, best, 1), np.take_along_axis(shares, best, 1)
    with np.errstate(divide="ignore"):
        scores = np.log(shares).astype(np.float32)
    return Candidates(items=np.where(shares > 0, items, -1).astype(np.int32), scores=scores)


def softened(found: Candidates, config: TeacherConfig) -> SoftTargets:
    """Lists (R, K) whose scores are logits as soft targets of R events; rows without an answer have no weight."""
    weights = (config.trust * _softmax(found, config.sharpness)).astype(np.float16)
    return SoftTargets(items=np.maximum(found.items, 0).astype(np.int32), weights=weights)


def _shares(found: Candidates, log_scores: bool) -> np.ndarray:
    """float32 (R, k) that sum to 1 in each row with an answer, 0 elsewhere."""
    if log_scores:
        return _softmax(found, 1.0)
    scores = np.where((found.items >= 0) & np.isfinite(found.scores), found.scores, 0.0)
    mass = np.maximum(scores, 0.0)
    return (mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)).astype(np.float32)


def _softmax(found: Candidates, sharpness: float) -> np.ndarray:
    """float32 (R, k) ∝ exp(sharpness · score); rows without an answer are 0."""
    scores = np.where(found.items >= 0, sharpness * found.scores.astype(np.float64), -np.inf)
    top = scores.max(axis=1, keepdims=True, initial=-np.inf)
    mass = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    return (mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)).astype(np.float32)
