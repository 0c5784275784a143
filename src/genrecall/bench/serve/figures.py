"""What the outcomes of a phase come to."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np

from genrecall.serve.chaos.load import Outcomes

Figures = dict[str, Any]


def good(outcomes: Outcomes, deadline_ms: float, *, whole: bool = False) -> float:
    """Answers a second that kept the deadline; ``whole``: and of which nothing was left out."""
    kept = np.asarray(outcomes.latency_s) <= deadline_ms / 1e3
    kept &= _whole(outcomes) if whole else np.asarray(outcomes.status) == 200
    return float(kept.sum() / outcomes.span_s)


def lacking(outcomes: Outcomes) -> float:
    """Share of the requests that were degraded, refused or failed; 1 where nobody asked."""
    return 1.0 - float(_whole(outcomes).mean()) if outcomes.status else 1.0


def figures(outcomes: Outcomes, deadline_ms: float) -> Figures:
    """Counts, rates, shares and quantiles of milliseconds, as the table and ``--json`` show them."""
    answered, refused = outcomes.latencies(200) * 1e3, outcomes.latencies(429, 503) * 1e3
    statuses = np.asarray(outcomes.status)
    own = np.asarray(outcomes.latency_s)[statuses == 200] * 1e3 - np.asarray(outcomes.channels_ms)[statuses == 200]
    degraded = np.asarray(outcomes.degraded)[statuses == 200]
    turned_away = np.isin(statuses, (429, 503))
    return {
        "asked": len(statuses),
        "answered": len(answered),
        "refused": int(turned_away.sum()),
        "failed": int(len(statuses) - len(answered) - turned_away.sum()),
        "good_per_s": round(good(outcomes, deadline_ms), 1),
        "whole_per_s": round(good(outcomes, deadline_ms, whole=True), 1),
        "degraded_share": round(float(degraded.mean()) if len(degraded) else 0.0, 3),
        "degraded_by": dict(Counter(chain(*outcomes.reasons)).most_common()),
        "lacking_share": round(lacking(outcomes), 4),
        "answered_ms": _quantiles(answered),
        "without_channels_ms": _quantiles(own),
        "refused_ms": _quantiles(refused),
        "generator_late_ms": _quantiles(np.asarray(outcomes.late_s) * 1e3),
        "refused_with_retry_after": bool(np.asarray(outcomes.retry_after)[turned_away].all()),
    }


def _whole(outcomes: Outcomes) -> np.ndarray:
    return (np.asarray(outcomes.status) == 200) & ~np.asarray(outcomes.degraded, dtype=bool)


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return dict(zip(("p50", "p95", "p99"), np.percentile(values, (50, 95, 99)).round(2).tolist(), strict=True))
