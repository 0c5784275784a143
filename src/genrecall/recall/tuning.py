"""Settings of a channel, chosen by NDCG@10 on validation cases.

    config* = argmax_config  mean_v [rank_v ≤ 10] / log₂(rank_v + 1)

Coordinate search (Wright, "Coordinate descent algorithms", Mathematical Programming 2015): one setting after the other
walks along its values as long as that helps, while the others stand still, until a whole round moves none. Deviation:
the coordinates are discrete, ties go to the configuration that was tried first, and nothing is tried twice. A full
product of the same axes costs a thousand times as much and, with a few thousand cases, mostly fits their noise.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Channel, Query
from genrecall.recall.neighbours import NeighbourChannel
from genrecall.telemetry import Bar, progress

CASES = 20_000
"""More validation cases than this are thinned out."""

_DEPTH = 50
_BATCH = 512
_ROUNDS = 4
_READING = ("last", "decay", "session_weight")
Config = TypeVar("Config", bound=Any)


@dataclass(frozen=True, kw_only=True)
class Grid(Generic[Config]):
    """Configurations around one that is known to be sensible.

    Attributes:
        start: is tried first.
        axes: values by the name of a setting, in their natural order; axes are searched in the order given. An axis
            that lacks the start's own value is tried as a whole.
    """

    start: Config
    axes: Mapping[str, Sequence[Any]]

    def __post_init__(self) -> None:
        known = asdict(self.start)
        unknown = sorted(set(self.axes) - set(known))
        if unknown or any(len(values) == 0 for values in self.axes.values()):
            raise ConfigError(
                "the grid has an axis that the channel lacks, or one without values",
                seen=", ".join(unknown) or "an empty axis",
                allowed=f"some of {', '.join(known)}, each with at least one value",
                fix="correct the axes",
            )

    def product(self) -> Iterator[Config]:
        """Every configuration that the axes span, the last axis fastest."""
        for values in itertools.product(*self.axes.values()):
            yield replace(self.start, **dict(zip(self.axes, values, strict=True)))


@dataclass(frozen=True, kw_only=True)
class Trial(Generic[Config]):
    """One configuration and what it did on the validation cases."""

    config: Config
    ndcg: float
    recall: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Tuned(Generic[Config]):
    """The choice, and everything that was tried for it.

    Attributes:
        best: the trial with the highest NDCG@10.
        trials: in the order tried.
        cases: how many validation cases were asked.
    """

    best: Trial[Config]
    trials: tuple[Trial[Config], ...]
    cases: int

    @property
    def config(self) -> Config:
        """The chosen configuration."""
        return self.best.config

    def table(self) -> list[dict[str, Any]]:
        """One row a trial, best first: the settings that were varied, ``ndcg@10``, ``recall@10`` and seconds."""
        settings = [asdict(trial.config) for trial in self.trials]
        varied = [name for name in settings[0] if len({repr(row[name]) for row in settings}) > 1]
        rows = [
            {**{name: row[name] for name in varied}, "ndcg@10": t.ndcg, "recall@10": t.recall, "seconds": t.seconds}
            for row, t in zip(settings, self.trials, strict=True)
        ]
        return sorted(rows, key=lambda row: -row["ndcg@10"])


def choose(
    make: Callable[[Config], Channel], configs: Iterable[Config], queries: Sequence[Query], targets: np.ndarray
) -> Tuned[Config]:
    """Try every configuration.

    Args:
        make: the channel of a configuration, fitted on training events (see :func:`fitting`).
        configs: at least one; equal ones are tried once.
        queries: N ≥ 1 validation cases, as the harness asks them.
        targets: int (N,) their answers.
    """
    trials = _Trials(make, queries, targets)
    with progress("tuning") as bar:
        for config in configs:
            trials.of(config, bar)
    return trials.result()


def search(
    make: Callable[[Config], Channel], grid: Grid[Config], queries: Sequence[Query], targets: np.ndarray
) -> Tuned[Config]:
    """Search the grid axis by axis; arguments as in :func:`choose`."""
    trials = _Trials(make, queries, targets)
    with progress("tuning") as bar:
        best = trials.of(grid.start, bar)
        for _ in range(_ROUNDS):
            before = best
            for axis, values in grid.axes.items():
                best = _along(trials, best, axis, values, bar)
            if best is before:
                break
    return trials.result()


def sample(
    queries: Sequence[Query], targets: np.ndarray, *, cases: int = CASES, seed: int = 0
) -> tuple[list[Query], np.ndarray]:
    """At most ``cases`` of the cases, drawn without replacement, in their old order."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(queries))[:cases])
    return [queries[case] for case in chosen], targets[chosen]


def fitting(kind: type[NeighbourChannel[Config]], histories: Histories, num_items: int) -> Callable[[Config], Channel]:
    """The channels of a class on these training histories; what configurations share is counted once.

    The last few counted and weighed matrices are kept, so that configurations are cheapest in the order of a search.
    """
    counts = histories.item_counts(num_items).astype(np.float64)
    start = kind.suited_to(histories)
    neutral = {name: value for name, value in asdict(start).items() if name in _READING}

    @lru_cache(maxsize=2)
    def counted(**settings: Any) -> Any:
        return kind.count(histories, num_items, replace(start, **settings))

    @lru_cache(maxsize=2)
    def weighed(config: Config) -> NeighbourChannel[Config]:
        matrix = counted(**{name: value for name, value in asdict(config).items() if name in kind.counted_by})
        return kind(kind.weigh(matrix, counts, config), counts, config)

    return lambda config: weighed(replace(config, **neutral)).read_as(config)


def places(channel: Channel, queries: Sequence[Query], targets: np.ndarray) -> np.ndarray:
    """int (N,) place of each target from 1, 0 where it is not among the first fifty (or, if counted, anywhere)."""
    if isinstance(channel, Placing):
        return channel.places(queries, targets)
    found = np.zeros(len(queries), dtype=np.int64)
    for begin in range(0, len(queries), _BATCH):
        block = slice(begin, begin + _BATCH)
        hit = channel.recall(queries[block], _DEPTH).items == targets[block, None]
        found[block] = np.where(hit.any(1), hit.argmax(1) + 1, 0)
    return found


def ndcg(places: np.ndarray, k: int = 10) -> float:
    """Mean NDCG@k of places (N,) that count from 1, 0 for absent."""
    hits = places[(places > 0) & (places <= k)]
    return float((1.0 / np.log2(hits + 1.0)).sum() / len(places))


def _along(trials: _Trials[Config], best: Trial[Config], axis: str, values: Sequence[Any], bar: Bar) -> Trial[Config]:
    """The best trial on the way from ``best`` along one axis, up and down, as far as each step helps."""
    current = asdict(best.config)[axis]
    if current not in values:
        tried = [trials.of(replace(best.config, **{axis: value}), bar) for value in values]
        return max([best, *tried], key=lambda trial: trial.ndcg)
    start = list(values).index(current)
    for way in (values[start + 1 :], values[:start][::-1]):
        for value in way:
            trial = trials.of(replace(best.config, **{axis: value}), bar)
            if trial.ndcg <= best.ndcg:
                break
            best = trial
    return best


@runtime_checkable
class Placing(Protocol):
    """A channel that can tell the place of one item without listing those before it."""

    def places(self, queries: Sequence[Query], targets: np.ndarray) -> np.ndarray: ...  # noqa: D102


class _Trials(Generic[Config]):
    """What was tried so far."""

    def __init__(self, make: Callable[[Config], Channel], queries: Sequence[Query], targets: np.ndarray) -> None:
        if len(queries) == 0:
            raise ConfigError(
                "there is nothing to choose settings by",
                seen="no validation cases",
                allowed="at least one case",
                fix="use a split that holds out validation events, or keep the default settings",
            )
        self._make, self._queries, self._targets = make, queries, targets
        self._done: dict[Config, Trial[Config]] = {}

    def of(self, config: Config, bar: Bar) -> Trial[Config]:
        """The trial of this configuration; a new one only if there is none yet."""
        if config not in self._done:
            start = time.perf_counter()
            found = places(self._make(config), self._queries, self._targets)
            hit = float(((found > 0) & (found <= 10)).mean())
            seconds = time.perf_counter() - start
            self._done[config] = Trial(config=config, ndcg=ndcg(found), recall=hit, seconds=round(seconds, 3))
            bar.advance(1, best=max(trial.ndcg for trial in self._done.values()))
        return self._done[config]

    def result(self) -> Tuned[Config]:
        trials = tuple(self._done.values())
        return Tuned(best=max(trials, key=lambda trial: trial.ndcg), trials=trials, cases=len(self._queries))
