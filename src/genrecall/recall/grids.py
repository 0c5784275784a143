"""Where to look for the settings of the counted channels: one grid a channel, started from what suits the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.recall.basket import BasketChannel, BasketConfig
from genrecall.recall.channel import Channel, Query
from genrecall.recall.dense import DenseChannel, DenseConfig
from genrecall.recall.item_cf import ItemCfChannel, ItemCfConfig
from genrecall.recall.lexical import LexicalChannel, LexicalConfig
from genrecall.recall.linear import MOST_ITEMS, LinearChannel, LinearConfig
from genrecall.recall.neighbours import NeighbourChannel
from genrecall.recall.popularity import PopularityChannel, PopularityConfig
from genrecall.recall.transition import TransitionChannel, in_baskets, suited_to
from genrecall.recall.tuning import CASES, Grid, Tuned, fitting, sample, search
from genrecall.telemetry import log

_DECAYS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_TRANSITION = {
    "decay": _DECAYS,
    "source_damping": (0.0, 0.15, 0.3, 0.5, 0.7, 1.0),
    "target_damping": (0.0, 0.1, 0.25, 0.5, 0.75),
    "distance": ("halving", "inverse", "flat"),
    "window": (1, 2, 3, 5, 8, 12),
    "last": (1, 5, 10, 20, 50),
}
_ITEM_CF = {
    "decay": _DECAYS,
    "last": (1, 5, 10, 20, 50),
    "shrinkage": (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
    "popularity_power": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
}
_BASKET = {
    "decay": (0.8, 0.9, 0.95, 0.97, 0.99, 1.0),
    "session_weight": (0.0, 0.05, 0.15, 0.3, 0.6, 1.0),
    "last": (5, 10, 20, 50, 100),
    "size_damping": (0.0, 0.25, 0.5, 0.75, 1.0),
}
_LINEAR = {
    "ridge": (5.0, 10.0, 20.0, 50.0, 100.0, 200.0),
    "target_damping": (0.0, 0.1, 0.2, 0.3, 0.5),
    "session_weight": (0.05, 0.1, 0.15, 0.3, 0.6, 1.0),
    "decay": (0.8, 0.9, 0.95, 0.97, 0.99, 1.0),
}
_LEXICAL = {
    "decay": _DECAYS,
    "last": (1, 2, 5, 10, 20),
    "b": (0.0, 0.25, 0.5, 0.75, 1.0),
    "k1": (0.4, 0.8, 1.2, 2.0),
}
_DENSE = {"decay": _DECAYS, "last": (1, 2, 5, 10, 20), "centred": (True, False)}
_HALF_LIVES = (7.0, 30.0, 90.0, 365.0, None)


def counted_grids(histories: Histories, num_items: int) -> dict[str, tuple[type[NeighbourChannel[Any]], Grid[Any]]]:
    """Class and grid by name: ``item_cf``, ``transition``, ``transition_undirected``; for baskets
    ``basket`` and, where there are few enough items, ``linear``.

    ``transition`` counts forwards only. The grids hold first-order Markov chains (window 1, full row normalisation),
    plain cosine with decay, and the settings published for Amazon's files (distances 1 to 3, weight 1/distance, rows
    divided by the root of their sum, the last 20 items weighted 0.5^age).
    """
    start = suited_to(histories)
    grids: dict[str, tuple[type[NeighbourChannel[Any]], Grid[Any]]] = {
        "item_cf": (ItemCfChannel, Grid(start=ItemCfConfig(), axes=_ITEM_CF)),
        "transition": (TransitionChannel, Grid(start=replace(start, directed=True), axes=_TRANSITION)),
        "transition_undirected": (TransitionChannel, Grid(start=replace(start, directed=False), axes=_TRANSITION)),
    }
    if in_baskets(histories):
        grids["basket"] = (BasketChannel, Grid(start=BasketConfig(), axes=_BASKET))
        if num_items <= MOST_ITEMS:
            grids["linear"] = (LinearChannel, Grid(start=LinearConfig(), axes=_LINEAR))
    return grids


def tune_counted(
    histories: Histories,
    num_items: int,
    queries: list[Query],
    targets: np.ndarray,
    *,
    cases: int = CASES,
    seed: int = 0,
) -> dict[str, Tuned[Any]]:
    """Tune popularity and every counted channel.

    Args:
        histories: training events.
        num_items: I.
        queries: N validation cases, as the harness asks them.
        targets: int (N,) their answers.
        cases: at most so many of the cases are asked.
        seed: of the draw.

    Returns:
        What was tried, by channel name; ``popularity`` stands first.
    """
    queries, targets = sample(queries, targets, cases=cases, seed=seed)

    def popularity(config: PopularityConfig) -> Channel:
        return PopularityChannel.fit(histories, num_items, config)

    lives = _HALF_LIVES if histories.timed else (None,)
    tuned: dict[str, Tuned[Any]] = {
        "popularity": search(
            popularity, Grid(start=PopularityConfig(), axes={"half_life_days": lives}), queries, targets
        )
    }
    for name, (kind, grid) in counted_grids(histories, num_items).items():
        tuned[name] = search(fitting(kind, histories, num_items), grid, queries, targets)
        best = tuned[name].best
        log(f"{name}: NDCG@10 {best.ndcg:.4f} of {len(tuned[name].trials)} settings: {best.config}")
    return tuned


def tune_lexical(
    texts: Sequence[str],
    counts: np.ndarray,
    queries: list[Query],
    targets: np.ndarray,
    *,
    cases: int = 4000,
    seed: int = 0,
) -> Tuned[LexicalConfig]:
    """Tune BM25 over I texts; other arguments as in :func:`tune_counted`."""

    @lru_cache(maxsize=2)
    def indexed(k1: float, b: float) -> LexicalChannel:
        return LexicalChannel.fit(texts, counts, LexicalConfig(k1=k1, b=b))

    def make(config: LexicalConfig) -> Channel:
        return indexed(config.k1, config.b).read_as(config)

    return search(make, Grid(start=LexicalConfig(), axes=_LEXICAL), *sample(queries, targets, cases=cases, seed=seed))


def tune_dense(
    vectors: np.ndarray,
    counts: np.ndarray,
    queries: list[Query],
    targets: np.ndarray,
    *,
    cases: int = 4000,
    seed: int = 0,
) -> Tuned[DenseConfig]:
    """Tune nearest neighbours by I vectors; other arguments as in :func:`tune_counted`."""

    @lru_cache(maxsize=2)
    def centred(yes: bool) -> DenseChannel:
        return DenseChannel.fit(vectors, counts, DenseConfig(centred=yes))

    def make(config: DenseConfig) -> Channel:
        return centred(config.centred).read_as(config)

    return search(make, Grid(start=DenseConfig(), axes=_DENSE), *sample(queries, targets, cases=cases, seed=seed))
