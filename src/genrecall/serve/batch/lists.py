"""The lists that the service would answer, many at a time: its channels, fusion and fallback, without its deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.bundle.load import Recommender
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.fusion import Explained
from genrecall.serve.answering import evident
from genrecall.serve.default import default_channels, depth_of, fill, fusion_of


@dataclass(frozen=True, kw_only=True)
class List:
    """One answer.

    Attributes:
        items: at most k item indices, best first.
        scores: of the fusion; what fills the list up stands at or below zero.
        filled: how many items at the end the fallback gave.
    """

    items: list[int]
    scores: list[float]
    filled: int


class Lists:
    """A bundle that answers as it is served where nobody chooses channels.

    Args:
        contents: of the bundle.
        shop: the same bundle, with its model.
        k: items a list.
    """

    def __init__(self, contents: Contents, shop: Recommender, k: int) -> None:
        self.contents, self.k = contents, k
        known: dict[str, Channel] = {"generative": shop.generative, **contents.channels}
        names = default_channels(contents, known)
        self.channels = [known[name] for name in names]
        self.fusion = fusion_of(contents, names, {})

    def answer(self, queries: Sequence[Query]) -> list[List]:
        """One list a query; a query's ``exclude`` never comes."""
        depth = depth_of(self.k, len(self.contents.items))
        lists = {channel.name: self._recall(channel, queries, depth) for channel in self.channels}
        lengths = np.array([len(query.history) for query in queries], dtype=np.int64)
        missing = [name for name in self.fusion.config.channels if name not in lists]
        lists |= {name: _nothing(len(queries)) for name in missing}
        fused = self.fusion.explain(lists, self.k, lengths)
        return [self._filled(query, evident(found)) for query, found in zip(queries, fused, strict=True)]

    def _filled(self, query: Query, found: Sequence[Explained]) -> List:
        items, scores = [entry.item for entry in found], [entry.score for entry in found]
        missing = self.k - len(items)
        if missing <= 0:
            return List(items=items, scores=scores, filled=0)
        exclude = np.concatenate((query.exclude, np.array(items, dtype=np.int32)))
        more = [one.item for one in fill(self.contents, Query(exclude=exclude, profile=query.profile), missing)]
        return List(items=items + more, scores=scores + [min([0.0, *scores])] * len(more), filled=len(more))

    def _recall(self, channel: Channel, queries: Sequence[Query], depth: int) -> Candidates:
        """As online, where the generative channel is not asked about those of whom nothing is known."""
        if channel.name != "generative":
            return channel.recall(queries, depth)
        told = [row for row, query in enumerate(queries) if len(query.history)]
        items = np.full((len(queries), depth), -1, np.int32)
        scores = np.full((len(queries), depth), -np.inf, np.float32)
        if told:
            beam = max(self.contents.beam, min(self.k, len(self.contents.items)))
            asked = [queries[row] for row in told]
            found = channel.recall(asked, depth, beams=[beam] * len(told))  # type: ignore[call-arg]
            items[told], scores[told] = found.items, found.scores
        return Candidates(items=items, scores=scores)


def _nothing(rows: int) -> Candidates:
    return Candidates(items=np.full((rows, 1), -1, np.int32), scores=np.full((rows, 1), -np.inf, np.float32))
