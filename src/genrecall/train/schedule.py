"""Learning rate over progress.

``lr(p) = peak · (final + (1 - final) · (1 + cos π p') / 2)`` after a linear warm-up, p' the progress beyond it
(Loshchilov & Hutter 2017, arXiv 1608.03983). We deviate: progress is a share of epochs (or of the time allowed), not a
step count, so epochs may differ in length.
"""

from __future__ import annotations

import math
from typing import Protocol


class Schedule(Protocol):
    """The part of a configuration that sets the rate."""

    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def final_rate(self) -> float: ...  # noqa: D102
    @property
    def warmup(self) -> float: ...  # noqa: D102


def rate(progress: float, config: Schedule) -> float:
    """Learning rate at ``progress`` in [0, 1]."""
    if progress < config.warmup:
        # The first step moves already: warm-up starts at a hundredth, not at zero.
        return config.learning_rate * max(progress / config.warmup, 0.01)
    beyond = min((progress - config.warmup) / (1 - config.warmup), 1.0)
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * beyond)) / 2)
