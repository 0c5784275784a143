"""Every channel under the same rules: ask for lists, find the target, count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from genrecall.catalog.split import Cases
from genrecall.errors import ConfigError
from genrecall.eval.metrics import coverage, exposures, gains, gini, metric_names, ranks_of
from genrecall.eval.protocol import Protocol
from genrecall.eval.significance import RESAMPLES, Difference, Interval, intervals, paired
from genrecall.eval.slices import slice_masks
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.selection import exclusions
from genrecall.telemetry import progress

Profile = Callable[[int], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelResult:
    """What one channel did.

    Attributes:
        name: the channel's.
        ranks: int32 (N,) place of each case's target in the list, 0 where absent.
        metrics: ``recall@10`` and so on, with intervals.
        coverage: share of the catalog that stands in some list, by cut-off.
        gini: inequality of exposures by cut-off.
        slices: metrics by group and slice.
        seconds: wall time of all recall calls.
        invalid_sid_rate: share of generated SIDs that no item has; None where a channel writes no SIDs.
    """

    name: str
    ranks: np.ndarray
    metrics: dict[str, Interval]
    coverage: dict[int, float]
    gini: dict[int, float]
    slices: dict[str, dict[str, dict[str, Interval]]]
    seconds: float
    invalid_sid_rate: float | None = None

    def list_figures(self) -> dict[str, float]:
        """Coverage and Gini by cut-off, and seconds, for a JSON report."""
        return {
            **{f"coverage@{k}": value for k, value in self.coverage.items()},
            **{f"gini@{k}": value for k, value in self.gini.items()},
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """All channels on the same cases.

    Attributes:
        protocol: the rules.
        num_items: I, size of the catalog.
        users: int (N,) user of each case: the unit of resampling.
        unreachable: cases whose target the protocol removes from the lists; they count as misses.
        slice_sizes: cases by group and slice.
        results: by channel name, in the order given.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    protocol: Protocol
    num_items: int
    users: np.ndarray
    unreachable: int
    slice_sizes: dict[str, dict[str, int]]
    results: dict[str, ChannelResult]
    resamples: int
    seed: int

    @property
    def num_cases(self) -> int:
        """N."""
        return len(self.users)

    def sentence(self) -> str:
        """The protocol with this data's figures: stands above every table."""
        sentence = (
            f"{self.num_cases:,} {self.protocol.part} cases, {self.num_items:,} items; {self.protocol.sentence()}"
        )
        if self.unreachable:
            sentence += f" {self.unreachable:,} targets were in the removed history and count as misses."
        return sentence

    def with_invalid_sid_rate(self, channel: str, rate: float) -> Evaluation:
        """The same evaluation, with the share of invalid SIDs that a generative channel counted while it ran."""
        return replace(
            self, results={**self.results, channel: replace(self.results[channel], invalid_sid_rate=float(rate))}
        )

    def to_dict(self) -> dict[str, Any]:
        """Stable JSON: ``metrics.<channel>."recall@10"`` is ``{"mean", "low", "high"}``.

        ``invalid_sid_rate`` is the worst of the generative channels, None when none was told.
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
                "cases": self.num_cases,
                "items": self.num_items,
                "unreachable_cases": self.unreachable,
                "resamples": self.resamples,
                "sentence": self.sentence(),
            },
            "metrics": {name: _plain(result.metrics) for name, result in self.results.items()},
            "lists": {name: result.list_figures() for name, result in self.results.items()},
            "slices": slices,
            "invalid_sid_rate": max(rates) if rates else None,
        }

    def difference(self, first: str, second: str, metric: str = "recall@10") -> Difference:
        """Paired bootstrap of ``first − second``."""
        column = metric_names(self.protocol.ks).index(metric)
        a, b = (gains(self.results[name].ranks, self.protocol.ks)[:, column] for name in (first, second))
        return paired(a, b, self.users, resamples=self.resamples, seed=self.seed)


def evaluate(
    channels: Sequence[Channel],
    cases: Cases,
    *,
    num_items: int,
    protocol: Protocol,
    train_counts: np.ndarray,
    k: int = 50,
    batch: int = 256,
    profile: Profile | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Rank the catalog for every case with every channel.

    Args:
        channels: distinct names.
        cases: N ≥ 1 questions with answers.
        num_items: I.
        protocol: the rules; ``history="removed"`` makes each history the query's ``exclude``.
        train_counts: int (I,) training events by item, for the popularity slices.
        k: length of the lists; at least the largest cut-off.
        batch: queries a call.
        profile: profile columns of a user index.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    names = [channel.name for channel in channels]
    if len(cases) == 0 or k < max(protocol.ks) or len(set(names)) < len(names):
        raise ConfigError(
            "there is nothing to evaluate, or it cannot be told apart",
            seen=f"{len(cases)} cases, k={k}, channels {', '.join(names)}",
            allowed=f"at least one case, k >= {max(protocol.ks)}, distinct channel names",
            fix="use a split that holds out events (users need three or more), or correct k and the channels' names",
        )
    masks = slice_masks(cases.targets, cases.histories.lengths, train_counts)
    results = {}
    for channel in channels:
        results[channel.name] = _measure(
            channel,
            cases,
            masks,
            num_items,
            protocol,
            k=k,
            batch=batch,
            profile=profile,
            resamples=resamples,
            seed=seed,
        )
    removed = protocol.history == "removed"
    return Evaluation(
        protocol=protocol,
        num_items=num_items,
        users=cases.users,
        unreachable=_targets_in_history(cases) if removed else 0,
        slice_sizes={group: {name: int(mask.sum()) for name, mask in part.items()} for group, part in masks.items()},
        results=results,
        resamples=resamples,
        seed=seed,
    )


def queries_of(
    cases: Cases, protocol: Protocol, profile: Profile | None = None, *, begin: int = 0, end: int | None = None
) -> list[Query]:
    """The queries of the cases ``begin`` to ``end``, as every channel gets them."""
    queries = []
    for case in range(begin, len(cases) if end is None else min(end, len(cases))):
        history = cases.histories.of(case)
        queries.append(
            Query(
                history=history,
                times=cases.histories.times_of(case) if cases.histories.timed else None,
                exclude=np.unique(history) if protocol.history == "removed" else np.empty(0, np.int32),
                profile=profile(int(cases.users[case])) if profile is not None else {},
            )
        )
    return queries


def _measure(
    channel: Channel,
    cases: Cases,
    masks: Mapping[str, Mapping[str, np.ndarray]],
    num_items: int,
    protocol: Protocol,
    *,
    k: int,
    batch: int,
    profile: Profile | None,
    resamples: int,
    seed: int,
) -> ChannelResult:
    ranks = np.zeros(len(cases), dtype=np.int32)
    shown = {cut: np.zeros(num_items, dtype=np.int64) for cut in protocol.ks}
    seconds = 0.0
    for begin, queries, answer, took in _answers(channel, cases, protocol, k=k, batch=batch, profile=profile):
        seconds += took
        _require_honest(channel.name, queries, answer, num_items, k)
        ranks[begin : begin + len(queries)] = ranks_of(answer.items, cases.targets[begin : begin + len(queries)])
        for cut, total in shown.items():
            total += exposures(answer.items, num_items, cut)
    names, values = metric_names(protocol.ks), gains(ranks, protocol.ks)

    def bootstrap(mask: np.ndarray | slice) -> dict[str, Interval]:
        found = intervals(values[mask], cases.users[mask], resamples=resamples, seed=seed)
        return dict(zip(names, found, strict=True))

    return ChannelResult(
        name=channel.name,
        ranks=ranks,
        metrics=bootstrap(slice(None)),
        coverage={cut: coverage(total) for cut, total in shown.items()},
        gini={cut: gini(total) for cut, total in shown.items()},
        slices={group: {name: bootstrap(mask) for name, mask in part.items()} for group, part in masks.items()},
        seconds=seconds,
    )


def _answers(
    channel: Channel, cases: Cases, protocol: Protocol, *, k: int, batch: int, profile: Profile | None
) -> Iterator[tuple[int, list[Query], Candidates, float]]:
    with progress(f"eval {channel.name}", len(cases)) as bar:
        for begin in range(0, len(cases), batch):
            queries = queries_of(cases, protocol, profile, begin=begin, end=begin + batch)
            start = time.perf_counter()
            answer = channel.recall(queries, k)
            took = time.perf_counter() - start
            yield begin, queries, answer, took
            bar.advance(len(queries))


def _require_honest(name: str, queries: Sequence[Query], answer: Candidates, num_items: int, k: int) -> None:
    """A channel that repeats items, or returns excluded ones, would be measured wrongly: our bug, not the user's."""
    items = answer.items
    assert items.shape == (len(queries), k), f"channel {name} returned {items.shape}, not {(len(queries), k)}"
    assert items.min(initial=0) >= -1, f"channel {name}: item out of the catalog"
    assert items.max(initial=-1) < num_items, f"channel {name}: item out of the catalog"
    ordered = np.sort(items, axis=1)
    assert not np.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)), f"channel {name} repeats items"
    rows, excluded = exclusions(queries, num_items)
    banned = np.zeros((len(queries), num_items + 1), dtype=bool)
    banned[rows, excluded] = True
    assert not np.take_along_axis(banned, items, 1)[items >= 0].any(), f"channel {name} returns excluded items"


def _plain(metrics: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: asdict(interval) for name, interval in metrics.items()}


def _targets_in_history(cases: Cases) -> int:
    """Cases whose target is an item of their own history."""
    same = cases.histories.items == cases.targets[cases.histories.rows]
    return len(np.unique(cases.histories.rows[same]))
