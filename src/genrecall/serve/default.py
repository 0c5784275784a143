"""Which channels answer where nobody chooses, how their lists are joined, and what fills short ones: the same online
and in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.recall.channel import Query
from genrecall.recall.fusion import Fusion, FusionConfig
from genrecall.recall.fusion.rule import FITTED
from genrecall.serve.scenario import FALLBACKS, Scenario

FALLBACK = "popularity"
_BY_TEXT = ("lexical", "dense")


@dataclass(frozen=True, kw_only=True)
class Filled:
    """An item that fills a short list up: from which fallback, at which of its places, with which score."""

    item: int
    channel: str
    place: int
    score: float


def default_channels(contents: Contents, present: Iterable[str]) -> tuple[str, ...]:
    """Those of the bundle's fusion, or all but the fallbacks and those that match texts; of what is present."""
    names = list(present)
    if contents.fusion is not None:
        found = tuple(name for name in contents.fusion.config.channels if name in names)
    else:
        found = tuple(name for name in names if name not in (*FALLBACKS, *_BY_TEXT))
    return found or (FALLBACK,)


def fusion_of(
    contents: Contents, channels: tuple[str, ...], weights: Mapping[str, float], rules: Scenario | None = None
) -> Fusion:
    """As the scenario says; else as the bundle says where it knows these channels; else by reciprocal ranks.

    ``weights`` by channel are for rules that give none; what neither gives weighs 1.
    """
    rules = rules or Scenario()
    fits = contents.fusion is not None and set(channels) <= set(contents.fusion.config.channels)
    if contents.fusion is not None and fits and rules.method in (None, contents.fusion.config.method):
        return contents.fusion
    told = {**weights, **rules.weights}
    method = "rrf" if rules.method is None or rules.method in FITTED else rules.method
    return Fusion(
        FusionConfig(channels=channels, method=method, constant=rules.constant),
        contents.channels[FALLBACK].counts,
        weights=np.array([told.get(name, 1.0) for name in channels]),
    )


def fill(contents: Contents, query: Query, missing: int, chain: Sequence[str] = FALLBACKS) -> list[Filled]:
    """At most ``missing`` items that the query does not exclude, from the first fallback that knows something on."""
    filled: list[Filled] = []
    exclude = query.exclude
    for name in dict.fromkeys((*chain, FALLBACK)):
        if len(filled) == missing or name not in contents.channels:
            continue
        asked = Query(exclude=exclude, barred=query.barred, profile=query.profile)
        found = contents.channels[name].recall([asked], missing - len(filled))
        pairs = zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True)
        # Without evidence (score 0) a fallback only repeats the next one.
        told = [(item, score) for item, score in pairs if item >= 0 and (score != 0 or name == FALLBACK)]
        filled += [
            Filled(item=item, channel=name, place=place, score=score) for place, (item, score) in enumerate(told, 1)
        ]
        exclude = np.concatenate((query.exclude, np.array([one.item for one in filled], dtype=np.int32)))
    return filled


def depth_of(k: int, num_items: int) -> int:
    """How long the channels' lists are that a list of ``k`` is made of."""
    return max(2 * k, min(100, num_items))
