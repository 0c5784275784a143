"""Which channels answer where nobody chooses, and how their lists are joined: the same online and in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.recall.fusion import Fusion, FusionConfig

FALLBACK = "popularity"
_BY_TEXT = ("lexical", "dense")


def default_channels(contents: Contents, present: Iterable[str]) -> tuple[str, ...]:
    """Those of the bundle's fusion, or all but the fallback and those that match texts; of what is present."""
    names = list(present)
    if contents.fusion is not None:
        found = tuple(name for name in contents.fusion.config.channels if name in names)
    else:
        found = tuple(name for name in names if name not in (FALLBACK, *_BY_TEXT))
    return found or (FALLBACK,)


def fusion_of(contents: Contents, channels: tuple[str, ...], weights: Mapping[str, float]) -> Fusion:
    """As the bundle says where it knows these channels, else by reciprocal rank with these weights (1 unless given)."""
    if contents.fusion is not None and set(channels) <= set(contents.fusion.config.channels):
        return contents.fusion
    chosen = np.array([weights.get(name, 1.0) for name in channels])
    return Fusion(FusionConfig(channels=channels), contents.channels[FALLBACK].counts, weights=chosen)


def depth_of(k: int, num_items: int) -> int:
    """How long the channels' lists are that a list of ``k`` is made of."""
    return max(2 * k, min(100, num_items))
