"""What an evaluation found: gains of every channel on the same cases, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from genrecall.eval.calibration import Calibration, calibration
from genrecall.eval.lock import times
from genrecall.eval.protocol import Rules
from genrecall.eval.significance import RESAMPLES, Difference, Interval, intervals, paired

PARTS = {"validation": "validation", "test": "final test"}
Masks = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelResult:
    """What one channel did, in S runs (seeds) on N cases.

    Attributes:
        name: the channel's.
        gains: float32 (S, N, M) what each case adds to each metric.
        metrics: mean over seeds and cases, with intervals of a bootstrap over users, seeds averaged.
        slices: the same by group and slice.
        lists: coverage, Gini, novelty and diversity by ``name@k``; means over seeds.
        seconds: wall time of all recall calls, mean over seeds.
        ranks: int32 (S, N) place of each case's one target, 0 where absent; None where there may be several.
        confidence: float32 (S, N) of each list, see :mod:`genrecall.eval.calibration`; None where it was not asked.
        log_scores: whether the scores are log-probabilities.
        invalid_sid_rate: share of generated SIDs that no item has; None where a channel writes no SIDs.
    """

    name: str
    gains: np.ndarray
    metrics: dict[str, Interval]
    slices: dict[str, dict[str, dict[str, Interval]]]
    lists: dict[str, float]
    seconds: float
    ranks: np.ndarray | None = None
    confidence: np.ndarray | None = None
    log_scores: bool = False
    invalid_sid_rate: float | None = None

    def by_seed(self, metric: str) -> np.ndarray:
        """float64 (S,) means over the cases of one run each."""
        return self.gains[:, :, list(self.metrics).index(metric)].mean(1, dtype=np.float64)

    def deviation(self, metric: str) -> float | None:
        """Standard deviation over seeds; None of one run."""
        values = self.by_seed(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """All channels on the same cases, by one run or by several that differ in their seed.

    Attributes:
        protocol: the rules.
        part: ``validation`` or ``test``.
        num_items: I, size of the catalog.
        users: int (N,) user (or query) of each case: the unit of resampling.
        cases: digest of the cases: equal for evaluations that may be compared case by case.
        unreachable: cases whose target the protocol removes from the lists; they count as misses.
        masks: bool (N,) by group and slice.
        results: by channel name, in the order given.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        readings: how often this test split was read so far; 0 for validation cases.
        runs: names of the S runs, where there are several.
    """

    protocol: Rules
    part: str
    num_items: int
    users: np.ndarray
    cases: str
    unreachable: int
    masks: Masks
    results: dict[str, ChannelResult]
    resamples: int
    seed: int
    readings: int = 0
    runs: tuple[str, ...] = ()

    @property
    def num_cases(self) -> int:
        """N."""
        return len(self.users)

    @property
    def num_runs(self) -> int:
        """S: how many runs (seeds) are averaged."""
        return max(len(self.runs), 1)

    @property
    def slice_sizes(self) -> dict[str, dict[str, int]]:
        """Cases by group and slice."""
        return {group: {name: int(mask.sum()) for name, mask in parts.items()} for group, parts in self.masks.items()}

    def sentence(self) -> str:
        """The protocol with this data's figures: stands above every table."""
        sentence = (
            f"{self.num_cases:,} {PARTS[self.part]} {self.protocol.unit}, {self.num_items:,} items; "
            f"{self.protocol.sentence()}"
        )
        if self.num_runs > 1:
            sentence += f" Means of {self.num_runs} runs that differ in their seed."
        if self.unreachable:
            sentence += f" {self.unreachable:,} targets were in the removed history and count as misses."
        if self.readings and self.num_runs == 1:
            sentence += f" This test split was read {times(self.readings)}."
        elif self.readings:
            sentence += f" By each run's own record this test split was read {times(self.readings)} or less."
        return sentence

    def with_invalid_sid_rate(self, channel: str, rate: float) -> Evaluation:
        """The same evaluation, with the share of invalid SIDs that a generative channel counted while it ran."""
        return replace(
            self, results={**self.results, channel: replace(self.results[channel], invalid_sid_rate=float(rate))}
        )

    def difference(
        self, first: str, second: str, metric: str = "recall@10", resamples: int | None = None
    ) -> Difference:
        """Paired bootstrap of ``first − second``, seeds averaged case by case."""
        column = self.protocol.metric_names().index(metric)
        a, b = (self.results[name].gains[:, :, column].mean(0, dtype=np.float64) for name in (first, second))
        return paired(a, b, self.users, resamples=resamples or self.resamples, seed=self.seed)

    def calibration(self, channel: str, cut: int) -> Calibration | None:
        """Hits among the first ``cut`` items by confidence; None where confidences were not asked."""
        result = self.results[channel]
        if result.confidence is None:
            return None
        hits = result.gains[:, :, self.protocol.metric_names().index(f"recall@{cut}")] > 0
        return calibration(result.confidence.ravel(), hits.ravel(), cut, probability=result.log_scores)

    def to_dict(self) -> dict[str, Any]:
        """Stable JSON: ``metrics.<channel>."recall@10"`` is ``{"mean", "low", "high"}``, of several runs also
        ``"sd"`` and ``"seeds"``. ``invalid_sid_rate`` is the worst of the channels, None when none was told.
        """
        rates = [result.invalid_sid_rate for result in self.results.values() if result.invalid_sid_rate is not None]
        slices = {
            group: {
                part: {
                    "cases": cases,
                    "metrics": {name: _plain(result.slices[group][part]) for name, result in self.results.items()},
                }
                for part, cases in parts.items()
            }
            for group, parts in self.slice_sizes.items()
        }
        return {
            "protocol": {
                **self.protocol.to_dict(),
                "part": self.part,
                "cases": self.num_cases,
                "cases_digest": self.cases,
                "items": self.num_items,
                "unreachable_cases": self.unreachable,
                "readings": self.readings,
                "resamples": self.resamples,
                "seed": self.seed,
                "sentence": self.sentence(),
            },
            "runs": list(self.runs),
            "metrics": {name: _with_seeds(result) for name, result in self.results.items()},
            "lists": {
                name: {**result.lists, "seconds": round(result.seconds, 3)} for name, result in self.results.items()
            },
            "slices": slices,
            "invalid_sid_rate": max(rates) if rates else None,
        }


def summarise(
    name: str,
    gains: np.ndarray,
    *,
    metrics: list[str],
    users: np.ndarray,
    masks: Masks,
    lists: dict[str, float],
    seconds: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
    **rest: Any,
) -> ChannelResult:
    """A channel's result from its gains float32 (S, N, M); ``rest`` are further attributes of the result."""
    values = gains.mean(0, dtype=np.float64)

    def bootstrap(mask: np.ndarray | slice) -> dict[str, Interval]:
        found = intervals(values[mask], users[mask], resamples=resamples, seed=seed)
        return dict(zip(metrics, found, strict=True))

    return ChannelResult(
        name=name,
        gains=gains,
        metrics=bootstrap(slice(None)),
        slices={group: {part: bootstrap(mask) for part, mask in parts.items()} for group, parts in masks.items()},
        lists=lists,
        seconds=seconds,
        **rest,
    )


def _plain(metrics: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: asdict(interval) for name, interval in metrics.items()}


def _with_seeds(result: ChannelResult) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {name: asdict(interval) for name, interval in result.metrics.items()}
    for name, entry in found.items():
        if (sd := result.deviation(name)) is not None:
            entry |= {"sd": sd, "seeds": result.by_seed(name).tolist()}
    return found
