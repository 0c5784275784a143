"""Learning rate over progress, and which parameters decay.

``lr(p) = peak · (final + (1 - final) · (1 + cos π p') / 2)`` after a linear warm-up, p' the progress beyond it
(Loshchilov & Hutter 2017, arXiv 1608.03983). We deviate: progress is a share of epochs (or of the time allowed), not a
step count, so epochs may differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from genrecall.train.config import TrainConfig


def rate(progress: float, config: TrainConfig) -> float:
    """Learning rate at ``progress`` in [0, 1]."""
    if progress < config.warmup:
        # The first step moves already: warm-up starts at a hundredth, not at zero.
        return config.learning_rate * max(progress / config.warmup, 0.01)
    beyond = min((progress - config.warmup) / (1 - config.warmup), 1.0)
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * beyond)) / 2)


def optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW in one fused kernel; only matrices decay."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
