"""The generative channel: the language model writes SIDs, the table turns them into items.

``score(item) = Σ_l log p(s_l | prompt, s_<l)`` over the item's SID ``s`` (after TIGER, Rajput et al. 2023). Deviations:
p is normalised over the codes that are valid at that place, exclusions act inside the search, and a SID that several
items own expands by a stated rule (training count, then item index) with a cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from genrecall.engine.host.request import Answer, Request, Scores
from genrecall.errors import ConfigError
from genrecall.index.availability import allowed_items
from genrecall.recall.channel import Candidates, Query
from genrecall.sid.table import SidTable

if TYPE_CHECKING:  # torch comes with these; whoever only names the settings needs none
    from genrecall.engine.engine import Engine
    from genrecall.recall.generator import Prompts


@dataclass(frozen=True, kw_only=True)
class GenerativeConfig:
    """Settings of the search.

    Attributes:
        beam: W; widened to k where more items are asked for.
        items_per_sid: at most so many items of one SID in a list; None lifts the cap.
    """

    beam: int = 50
    items_per_sid: int | None = None

    def __post_init__(self) -> None:
        if self.beam < 1 or (self.items_per_sid is not None and self.items_per_sid < 1):
            raise ConfigError(
                "the generative channel could never answer",
                seen=f"beam={self.beam}, items_per_sid={self.items_per_sid}",
                allowed="a beam of at least 1; at least 1 item a SID, or no cap",
                fix="raise --beam or --items-per-sid",
            )


class GenerativeChannel:
    """Answers by constrained beam search.

    Args:
        engine: over the trie of ``table``.
        prompts: writes a query as tokens.
        table: SIDs of the I items.
        counts: int (I,) training events by item: orders the items of one SID.
        config: settings.
    """

    name = "generative"

    def __init__(
        self,
        engine: Engine,
        prompts: Prompts,
        table: SidTable,
        counts: np.ndarray,
        config: GenerativeConfig | None = None,
    ) -> None:
        self.engine, self.prompts, self.table = engine, prompts, table
        self.config = config or GenerativeConfig()
        self.written_sids = self.invalid_sids = 0
        self._owners = {
            sid: sorted(items, key=lambda item: (-int(counts[item]), item)) for sid, items in table.items_of.items()
        }

    @property
    def members(self) -> tuple[GenerativeChannel, ...]:
        """Itself alone; see ``ensemble``."""
        return (self,)

    @property
    def invalid_sid_rate(self) -> float:
        """Share of all SIDs written so far that no item owns: 0, or the constraint is broken."""
        return self.invalid_sids / max(self.written_sids, 1)

    def recall(self, queries: Sequence[Query], k: int, *, beams: Sequence[int] | None = None) -> Candidates:
        """The best ``k`` items of each query; ties by SID, then by the rule above. ``beams``: see ``answer``."""
        items = np.full((len(queries), k), -1, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for row, (query, answer) in enumerate(zip(queries, self.answer(queries, k, beams=beams), strict=True)):
            found, values = self.expand(answer, query, k)
            items[row, : len(found)] = found
            scores[row, : len(found)] = values
        return Candidates(items=items, scores=scores)

    def answer(
        self, queries: Sequence[Query], k: int, *, trace: bool = False, beams: Sequence[int] | None = None
    ) -> list[Answer]:
        """The SIDs written for each query, before they become items.

        Args:
            queries: R queries.
            k: items that are wanted.
            trace: keep the beams of every level.
            beams: W of each query; None takes the configured one, widened to ``k``.
        """
        widths = [max(self.config.beam, k)] * len(queries) if beams is None else beams
        requests = [self.request(query, width, trace) for query, width in zip(queries, widths, strict=True)]
        answers = self.engine.generate(requests)
        for answer in answers:
            self.count(answer)
        return answers

    def request(self, query: Query, beam: int, trace: bool = False) -> Request:
        """What the engine is asked for a query; limits and owner are the caller's to add."""
        return Request(
            tokens=tuple(self.prompts.encode(query.history, query.profile, query.times, query.text)),
            beam=beam,
            allowed=allowed_items(self.engine.trie.num_items, exclude=query.exclude, available=query.available),
            trace=trace,
        )

    def count(self, answer: Answer) -> int:
        """Hold an answer against the promise that every SID has an owner; how many have none."""
        invalid = sum(sid not in self._owners for sid in answer.sids)
        self.written_sids += len(answer.sids)
        self.invalid_sids += invalid
        return invalid

    def score(self, queries: Sequence[Query], items: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32 scores of given items int (n,) for each query, the same sums that ``recall`` ranks by."""
        return self.engine.score(self._prompted(queries), [self.table.sids[chosen] for chosen in items])

    def read(self, queries: Sequence[Query], items: Sequence[np.ndarray]) -> list[Scores]:
        """``score``, with the model's state after each query's prompt."""
        return self.engine.read(self._prompted(queries), [self.table.sids[chosen] for chosen in items])

    def _prompted(self, queries: Sequence[Query]) -> list[Request]:
        return [
            Request(tokens=tuple(self.prompts.encode(query.history, query.profile, query.times, query.text)))
            for query in queries
        ]

    def expand(self, answer: Answer, query: Query, k: int) -> tuple[list[int], list[float]]:
        """At most ``k`` eligible items of the answered SIDs, with their SIDs' scores."""
        excluded, available = set(query.exclude.tolist()), query.available
        items: list[int] = []
        scores: list[float] = []
        for sid, score in zip(answer.sids, answer.scores, strict=True):
            owners = [item for item in self._owners.get(sid, []) if item not in excluded]
            if available is not None:
                owners = [item for item in owners if available[item]]
            owners = owners[: self.config.items_per_sid]
            items += owners
            scores += [score] * len(owners)
            if len(items) >= k:
                break
        return items[:k], scores[:k]
