"""The lists that the service would answer, many at a time: its channels, fusion and fallback, without its deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.bundle.load import Recommender
from genrecall.rank.columns import Asked, Ragged
from genrecall.rank.recalled import Recalled, read_candidates
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.fusion import Explained
from genrecall.serve.answering import evident, reordered
from genrecall.serve.default import default_channels, depth_of, fill, fusion_of
from genrecall.serve.ranking import DEPTH


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
        self.contents, self.shop, self.k = contents, shop, k
        known: dict[str, Channel] = {"generative": shop.generative, **contents.channels}
        names = default_channels(contents, known)
        self.channels = [known[name] for name in names]
        self.fusion = fusion_of(contents, names, {})

    def answer(self, queries: Sequence[Query], users: Sequence[str | None]) -> list[List]:
        """One list a query; a query's ``exclude`` never comes. ``users`` are their names, which rankers read."""
        depth = depth_of(self.k, len(self.contents.items))
        lists = {channel.name: self._recall(channel, queries, depth) for channel in self.channels}
        lengths = np.array([len(query.history) for query in queries], dtype=np.int64)
        missing = [name for name in self.fusion.config.channels if name not in lists]
        lists |= {name: _nothing(len(queries)) for name in missing}
        most = self.k if self.shop.ranker is None else max(self.k, DEPTH)
        fused = [evident(found) for found in self.fusion.explain(lists, most, lengths)]
        found = fused if self.shop.ranker is None else self._ranked(self.shop.ranker, users, queries, fused)
        return [self._filled(query, own[: self.k]) for query, own in zip(queries, found, strict=True)]

    def _ranked(
        self, ranker: Ranker, users: Sequence[str | None], queries: Sequence[Query], fused: list[list[Explained]]
    ) -> list[list[Explained]]:
        """In the order of the bundle's ranker."""
        entries = [entry for own in fused for entry in own]
        if not entries:
            return fused
        recalled = Recalled(
            candidates=Ragged.of([[entry.item for entry in own] for own in fused]),
            scores=np.array([entry.score for entry in entries], np.float32),
            places={
                name: np.array([entry.ranks.get(name, 0) for entry in entries], np.int32)
                for name in self.fusion.config.channels
            },
        )
        sid_scores, states = read_candidates(self.shop.generative, queries, recalled.candidates)
        asked = Asked(
            users=list(users),
            profiles=[query.profile for query in queries],
            histories=Ragged.of([query.history for query in queries]),
            candidates=recalled.candidates,
            evidence=recalled.evidence(ranker.schema.evidence, sid_scores),
            state=states if ranker.schema.state else None,
        )
        logits = np.split(ranker.score(asked).logits, recalled.candidates.offsets[1:-1])
        return [reordered(own, scored) for own, scored in zip(fused, logits, strict=True)]

    def _filled(self, query: Query, found: Sequence[Explained]) -> List:
        items, scores = [entry.item for entry in found], [entry.score for entry in found]
        missing = self.k - len(items)
        if missing <= 0:
            return List(items=items, scores=scores, filled=0)
        exclude = np.concatenate((query.exclude, np.array(items, dtype=np.int32)))
        more = [
            one.item
            for one in fill(self.contents, Query(exclude=exclude, barred=query.barred, profile=query.profile), missing)
        ]
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
