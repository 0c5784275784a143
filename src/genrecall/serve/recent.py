"""The last minutes in memory: what the console's live page shows, and what ``/v1/explain`` looks up."""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrecall.serve.lanes import Listed
from genrecall.serve.schema import Answer, Recommend, Search

_WINDOW_S = 60.0
_KEPT, _SLOW = 20_000, 20


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


class Traffic:
    """Times and outcomes of the answers of the last minute."""

    def __init__(self) -> None:
        self._answers: collections.deque[tuple[float, Mapping[str, float], bool, int, int, str, str]] = (
            collections.deque(maxlen=_KEPT)
        )
        self.shed = self.requests = 0

    def see(self, answer: Answer, k: int) -> None:
        """One answer went out."""
        self.requests += 1
        coverage = answer.coverage
        self._answers.append(
            (
                time.monotonic(), answer.timing_ms, coverage.degraded, k - coverage.filled, k, answer.request_id,
                answer.versions.bundle,
            )
        )  # fmt: skip

    def by_release(self) -> dict[str, dict[str, float]]:
        """Of the last minute, by bundle digest: answers, p99 (ms), degraded share, fill ratio."""
        now, found = time.monotonic(), dict[str, list[tuple[float, bool, int, int]]]()
        for moment, timing, degraded, full, k, _, digest in self._answers:
            if now - moment <= _WINDOW_S:
                found.setdefault(digest, []).append((timing.get("total", 0.0), degraded, max(full, 0), k))
        return {
            digest: {
                "answers": len(rows),
                "p99_ms": round(float(np.percentile([row[0] for row in rows], 99)), 2),
                "degraded_share": sum(row[1] for row in rows) / len(rows),
                "fill_ratio": sum(row[2] for row in rows) / max(sum(row[3] for row in rows), 1),
            }
            for digest, rows in found.items()
        }

    def summary(self) -> dict[str, Any]:
        """Rates, quantiles by stage (ms), degraded and filled shares, and the slowest answers."""
        now = time.monotonic()
        recent = [entry for entry in self._answers if now - entry[0] <= _WINDOW_S]
        stages: dict[str, list[float]] = {}
        for _, timing, *_ in recent:
            for stage, value in timing.items():
                stages.setdefault(stage, []).append(value)
        quantiles = {
            stage: dict(zip(("p50", "p95", "p99"), np.percentile(values, (50, 95, 99)).round(2).tolist(), strict=True))
            for stage, values in stages.items()
        }
        seconds = [0] * int(_WINDOW_S)
        for entry in recent:
            seconds[min(int(now - entry[0]), len(seconds) - 1)] += 1
        slow = sorted(recent, key=lambda entry: -entry[1].get("total", 0.0))[:_SLOW]
        asked = sum(entry[4] for entry in recent)
        return {
            "window_s": _WINDOW_S,
            "answers": len(recent),
            "per_second": seconds[::-1],
            "stages_ms": quantiles,
            "degraded_share": sum(entry[2] for entry in recent) / len(recent) if recent else 0.0,
            "fill_ratio": sum(max(entry[3], 0) for entry in recent) / asked if asked else 1.0,
            "slowest": [{"request_id": entry[5], "total_ms": entry[1].get("total", 0.0)} for entry in slow],
        }
