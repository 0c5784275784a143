"""Vectors with known clusters, two deep."""

from __future__ import annotations

import numpy as np


def cloud(items: int = 240, dim: int = 12, groups: int = 6, seed: int = 0) -> np.ndarray:
    """Float32 (items, dim): ``groups`` clusters, each of three sub-clusters, on dimensions of very unequal scale."""
    rng = np.random.default_rng(seed)
    group = np.arange(items) % groups
    part = group * 3 + np.arange(items) // groups % 3
    rows = 4 * rng.normal(size=(groups, dim))[group] + 1.5 * rng.normal(size=(groups * 3, dim))[part]
    rows += 0.3 * rng.normal(size=(items, dim))
    return (rows * np.logspace(-2, 2, dim) + 7).astype(np.float32)
