"""Who is ahead of whom, when a table asks many times.

    p̃_(i) = max over j ≤ i of min(1, (m − j + 1) · p_(j)),   p_(1) ≤ … ≤ p_(m)

Holm, "A simple sequentially rejective multiple test procedure" (Scandinavian Journal of Statistics, 1979), over all m
rows of one table; the p-values are those of the paired bootstrap over users. Deviation: none in the correction; a
bootstrap p-value cannot fall below 2 / (resamples + 1), so that comparisons draw more resamples than intervals do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.eval.evaluation import Evaluation
from genrecall.eval.significance import Difference

RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row: ``first − second`` on the same cases.

    Attributes:
        first, second: channels.
        metric: for example ``recall@10``.
        difference: with its 95% interval and raw p-value.
        adjusted: the p-value after Holm, over all rows that were asked together.
    """

    first: str
    second: str
    metric: str
    difference: Difference
    adjusted: float


def compare(
    evaluation: Evaluation, reference: str, metrics: Sequence[str], resamples: int = RESAMPLES
) -> list[Comparison]:
    """The channel ``reference`` against every other by every metric; seeds are averaged case by case."""
    pairs = [(name, metric) for name in evaluation.results if name != reference for metric in metrics]
    found = [evaluation.difference(reference, name, metric, resamples) for name, metric in pairs]
    adjusted = holm([difference.p_value for difference in found])
    return [
        Comparison(first=reference, second=name, metric=metric, difference=difference, adjusted=p)
        for (name, metric), difference, p in zip(pairs, found, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given; to be compared with the level of the whole table."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))
    adjusted[order] = stepped
    return adjusted.tolist()
