"""Which item-to-item counts a ranker reads: those of the counted channels, with the settings that suit the histories.

    floor = mean of M,      last = newest items whose weight is above 1%

Counted from training events alone: targets of the lists that rankers learn from were never counted.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.rank.affinity import Relation
from genrecall.rank.columns import Ragged
from genrecall.rank.schema import Affinity
from genrecall.recall.item_cf import ItemCfChannel
from genrecall.recall.linear import MOST_ITEMS, LinearChannel
from genrecall.recall.neighbours import NeighbourChannel
from genrecall.recall.transition import TransitionChannel, in_baskets

_LAST, _SMALL = 50, 0.01
_COUNTED: dict[str, type[NeighbourChannel[Any]]] = {"item_cf": ItemCfChannel, "transition": TransitionChannel}


@lru_cache(maxsize=1)  # one fit asks for each of its blocks
def affinities_of(train: Histories, num_items: int) -> tuple[dict[str, Relation], list[Affinity]]:
    """Relations by name, and the numbers that read them: the history as the channel reads it, and its newest item.

    Sessions are the exception: a ranker is not told of times.
    """
    relations, found = {}, []
    kinds = dict(_COUNTED)
    if in_baskets(train) and num_items <= MOST_ITEMS:
        kinds["linear"] = LinearChannel
    for name, kind in kinds.items():
        channel = kind.fit(train, num_items)
        matrix, config = channel.neighbours.matrix, channel.config
        relations[name] = Relation(
            items=Ragged(offsets=matrix.indptr.astype(np.int64), values=matrix.indices.astype(np.int32)),
            values=matrix.data,
        )
        last = min(_LAST if config.last is None else config.last, _felt(config.decay))
        floor = float(matrix.data.mean()) if matrix.nnz else 1.0
        found.append(Affinity(name=name, of=name, last=last, decay=config.decay, floor=floor))
        found.append(Affinity(name=f"{name}_newest", of=name, last=1, decay=1.0, floor=floor))
    return relations, found


def recent_counts(train: Histories, num_items: int, share: float = 0.1) -> np.ndarray | None:
    """int64 (I,) events of the newest ``share`` of all events; None where events have no times."""
    if not train.timed or len(train.times) == 0:
        return None
    newest = train.times >= np.quantile(train.times, 1 - share)
    return np.bincount(train.items[newest], minlength=num_items)


def _felt(decay: float) -> int:
    """Steps until a weight of 1 has fallen to 1%."""
    return _LAST if decay >= 1 else max(1, math.ceil(math.log(_SMALL) / math.log(decay)))
