"""The last minute in memory: what the console's live page shows, and what ``/v1/explain`` looks up.

Counts are exact; times are of the newest answers of that minute, at most ``_SAMPLES`` of them.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from genrecall.serve.lanes import Listed
from genrecall.serve.schema import Answer, Recommend, Search

_WINDOW_S = 60
_SAMPLES, _TOLD, _SLOW, _SLOW_A_SECOND = 4096, 1024, 20, 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Remembered:
    """One answer and what it was made of, as arrays: words are only put to it when somebody asks.

    ``history`` is the number of events that were read.
    """

    request: Recommend | Search
    answer: Answer
    lists: Mapping[str, Listed]
    history: int = 0


class Explanations:
    """Answers by request id, the newest ``most``; none holds on to a bundle."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: collections.OrderedDict[str, Remembered] = collections.OrderedDict()

    def keep(self, remembered: Remembered) -> None:
        """Remember one answer."""
        self._kept[remembered.answer.request_id] = remembered
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def find(self, request_id: str) -> Remembered | None:
        """The answer with this id; None where it is forgotten or never was."""
        return self._kept.get(request_id)

    def forget(self, user_id: str) -> None:
        """Drop what was answered to a user."""
        for request_id in [key for key, kept in self._kept.items() if kept.request.user_id == user_id]:
            del self._kept[request_id]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    at: float
    stages: Mapping[str, float]
    channels: Mapping[str, float]
    bundle: str
    request_id: str
    degraded: bool


@dataclass(kw_only=True, eq=False)
class _Second:
    """What one second saw."""

    number: int
    answers: int = 0
    degraded: int = 0
    narrowed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    outcomes: dict[tuple[str, str], int] = field(default_factory=dict)
    tiers: dict[str, list[int]] = field(default_factory=dict)
    bundles: dict[str, list[int]] = field(default_factory=dict)
    slowest: list[_Sample] = field(default_factory=list)


class Traffic:
    """Times and outcomes of the answers of the last minute."""

    def __init__(self) -> None:
        self.requests = 0
        self._samples: collections.deque[_Sample] = collections.deque(maxlen=_SAMPLES)
        self._seconds: collections.deque[_Second] = collections.deque(maxlen=_WINDOW_S)
        self._bundles: dict[str, str] = {}

    def see(self, answer: Answer, k: int, tier: str) -> None:
        """One answer went out, of a request of this tier."""
        self.requests += 1
        coverage, now = answer.coverage, time.monotonic()
        second = self._second(int(now))
        filled = len(answer.items) - coverage.filled
        second.answers += 1
        second.degraded += coverage.degraded
        second.narrowed += 0 < coverage.beam < coverage.beam_asked
        _count(second.reasons, dict.fromkeys(coverage.reasons, 1))
        _count(second.outcomes, {(name, lane.outcome): 1 for name, lane in coverage.channels.items()})
        _add(second.tiers, tier, (1, filled, k))
        self._bundles[answer.versions.release] = answer.versions.bundle
        _add(second.bundles, answer.versions.bundle, (1, int(coverage.degraded), filled, k))
        sample = _Sample(
            at=now, stages=answer.timing_ms, channels={name: lane.ms for name, lane in coverage.channels.items()},
            bundle=answer.versions.bundle, request_id=answer.request_id, degraded=coverage.degraded,
        )  # fmt: skip
        self._samples.append(sample)
        second.slowest = sorted([*second.slowest, sample], key=_total, reverse=True)[:_SLOW_A_SECOND]

    def told(self) -> bytes:
        """The last minute, for ``joined`` of another process; the machine's processes share a clock."""
        return _encode(_Told(self.requests, list(self._samples)[-_TOLD:], list(self._seconds), self._bundles))

    def copied(self) -> Traffic:
        """The same minute, which nothing is added to any more."""
        found = Traffic()
        found.requests, found._bundles = self.requests, dict(self._bundles)
        found._samples.extend(self._samples)
        found._seconds.extend(_by_number(self._seconds))
        return found

    def joined(self, parts: Iterable[bytes]) -> Traffic:
        """This process's minute and those that others told, as one."""
        found, seconds = Traffic(), list[_Second]()
        for told in (_decode(self.told()), *(_decode(part) for part in parts)):
            found.requests += told.requests
            found._samples.extend(told.samples)
            found._bundles |= told.bundles
            seconds += told.seconds
        found._seconds.extend(_by_number(seconds))
        return found

    def by_release(self) -> dict[str, dict[str, float]]:
        """Of the last minute, by bundle digest: answers, p50, p95 and p99 (ms), degraded share, fill ratio."""
        now = time.monotonic()
        samples = [sample for sample in self._samples if now - sample.at <= _WINDOW_S]
        sums = _summed(second.bundles for second in self._seconds if second.number > int(now) - _WINDOW_S)
        return {
            bundle: {"answers": told[0], "degraded_share": told[1] / told[0], "fill": _ratio(*told[2:])}
            | _quantiles(sample.stages for sample in samples if sample.bundle == bundle).get("total", {})
            for bundle, told in sums.items()
        }

    def _second(self, number: int) -> _Second:
        if not self._seconds or self._seconds[-1].number != number:
            self._seconds.append(_Second(number=number))
        return self._seconds[-1]

    def summary(self) -> dict[str, Any]:
        """Rates, quantiles (ms) by stage, channel and release, shares by tier, outcomes, and the slowest answers."""
        now = time.monotonic()
        recent = [second for second in self._seconds if second.number > int(now) - _WINDOW_S]
        samples = [sample for sample in self._samples if now - sample.at <= _WINDOW_S]
        rates = [0] * _WINDOW_S
        for second in recent:
            rates[second.number - int(now) - 1] = second.answers
        answers = sum(second.answers for second in recent)
        tiers = _summed(second.tiers for second in recent)
        outcomes: dict[str, dict[str, int]] = {}
        for (name, outcome), count in _counted(second.outcomes for second in recent).items():
            outcomes.setdefault(name, {})[outcome] = count
        slow = sorted((sample for second in recent for sample in second.slowest), key=_total, reverse=True)[:_SLOW]
        releases = self.by_release()
        return {
            "window_s": float(_WINDOW_S),
            "answers": answers,
            "per_second": rates,
            "stages_ms": _quantiles(sample.stages for sample in samples),
            "channels_ms": _quantiles(sample.channels for sample in samples),
            "outcomes": outcomes,
            "degraded_share": sum(second.degraded for second in recent) / answers if answers else 0.0,
            "narrowed": sum(second.narrowed for second in recent),
            "reasons": dict(_counted(second.reasons for second in recent).most_common(20)),
            "fill_ratio": _ratio(*(sum(tier[place] for tier in tiers.values()) for place in (1, 2))),
            "tiers": {name: {"answers": tier[0], "fill": _ratio(*tier[1:])} for name, tier in tiers.items()},
            "releases": {role: releases[bundle] for role, bundle in self._bundles.items() if bundle in releases},
            "slowest": [
                {
                    "request_id": sample.request_id,
                    "total_ms": _total(sample),
                    "seconds_ago": round(now - sample.at, 1),
                    "channel": max(sample.channels, key=lambda name: sample.channels[name], default=""),
                    "channel_ms": max(sample.channels.values(), default=0.0),
                    "degraded": sample.degraded,
                }
                for sample in slow
            ],
        }


class _Told(msgspec.Struct, array_like=True):
    """A process's minute."""

    requests: int
    samples: list[_Sample]
    seconds: list[_Second]
    bundles: dict[str, str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Told).decode


def _by_number(seconds: Iterable[_Second]) -> list[_Second]:
    """One for each second, of all processes; ordered."""
    found: dict[int, _Second] = {}
    for second in seconds:
        whole = found.setdefault(second.number, _Second(number=second.number))
        whole.answers += second.answers
        whole.degraded += second.degraded
        whole.narrowed += second.narrowed
        _count(whole.reasons, second.reasons)
        _count(whole.outcomes, second.outcomes)
        for sums, more in ((whole.tiers, second.tiers), (whole.bundles, second.bundles)):
            for name, values in more.items():
                _add(sums, name, tuple(values))
        whole.slowest = sorted([*whole.slowest, *second.slowest], key=_total, reverse=True)[:_SLOW_A_SECOND]
    return [found[number] for number in sorted(found)]


def _total(sample: _Sample) -> float:
    return sample.stages.get("total", 0.0)


def _add(sums: dict[str, list[int]], name: str, more: tuple[int, ...]) -> None:
    known = sums.get(name)
    sums[name] = list(more) if known is None else [a + b for a, b in zip(known, more, strict=True)]


def _summed(parts: Iterable[Mapping[str, list[int]]]) -> dict[str, list[int]]:
    sums: dict[str, list[int]] = {}
    for part in parts:
        for name, values in part.items():
            _add(sums, name, tuple(values))
    return sums


def _count(counts: dict[Any, int], more: Mapping[Any, int]) -> None:
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count


def _counted(parts: Iterable[Mapping[Any, int]]) -> collections.Counter[Any]:
    total: collections.Counter[Any] = collections.Counter()
    for part in parts:
        total.update(part)
    return total


def _ratio(found: int, asked: int) -> float:
    return found / asked if asked else 1.0


def _quantiles(rows: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {
        name: dict(zip(("p50", "p95", "p99"), np.percentile(listed, (50, 95, 99)).round(2).tolist(), strict=True))
        for name, listed in values.items()
    }
