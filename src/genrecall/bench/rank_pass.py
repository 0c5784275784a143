"""Recall and ranking of one request in one process: the engine, then the service's ranking desk."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from genrecall.bench.load import Ask, saturated_by
from genrecall.bench.ranker import random_asked, random_queries
from genrecall.bench.rig import Rig
from genrecall.engine.asynchronous import AsyncEngine
from genrecall.engine.host.request import Answer, Request, Scores
from genrecall.engine.worker.frames import Frame
from genrecall.rank.columns import Asked
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Query
from genrecall.serve.worker.ranking import RankingDesk

if TYPE_CHECKING:
    from genrecall.bench.rank import RankBench

T = TypeVar("T")
_PATIENT_S, _SWITCH_S, _SETTLES = 60.0, 0.0005, 4


class Pass:
    """Recall and ranking of requests by number, as the service's worker does them."""

    def __init__(self, bench: RankBench, rig: Rig, ranker: Ranker) -> None:
        self.bench, self.rig, self.ranker = bench, rig, ranker
        self.make, leaves = rig.maker(bench.beam, *bench.input), np.asarray(rig.trie.leaves)
        self.sids = _sids_of(rig, leaves)
        self.keys = _key(self.sids, rig.space.codes)  # leaves stand in SID order
        self.items = len(leaves) * bench.owners
        self.queries = random_queries(self.items, 1024, bench.seed)
        self._numbers = itertools.count()
        self._switch_s = sys.getswitchinterval()

    def __enter__(self) -> Self:
        sys.setswitchinterval(_SWITCH_S)  # as the worker does
        self.engine = AsyncEngine(self.rig.engine)
        self.desk = RankingDesk(self.ranker, self._read)
        self._loop = asyncio.new_event_loop()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        sys.setswitchinterval(self._switch_s)

    def run(self, asking: Coroutine[Any, Any, T]) -> T:
        """On the one event loop that engine and desk are asked from."""
        return self._loop.run_until_complete(asking)

    def settle(self, ask: Ask, outstanding: int, seconds: float) -> None:
        """As ``Rig.settle``."""
        graphs = self.rig.engine.loop.runner.graphs
        for _ in range(_SETTLES):
            before = graphs.unusual
            with graphs.hasty():
                self.run(saturated_by(ask, outstanding=outstanding, seconds=seconds))
            if graphs.unusual == before:
                break

    async def recall(self, _: int) -> None:
        """One request's items. Every load is of new users: nobody finds a prompt that an earlier load has left."""
        number = next(self._numbers)
        self._expanded(await self.engine.generate(self._request(number)))

    async def ranked(self, unvisited: int, _: int) -> None:
        """One request's items and their order; of new users, as in ``recall``."""
        number = next(self._numbers)
        answer = await self.engine.generate(replace(self._request(number), state=True))
        items, scores = self._expanded(answer)
        query = self._query(number)
        assert answer.state is not None, "a state was asked for"
        self.desk.remember(query, answer.state, items, scores)
        reply = await self.desk.rank(self._frame(number, query, items, unvisited))
        assert np.isfinite(reply.arrays["logits"]).all(), "every candidate has a score"

    def asked(self, number: int) -> Asked:
        """A request as the ranker is told of it, without any recall."""
        count = min(self.bench.candidates, self.items)
        return random_asked(number, self._query(number), self.ranker.schema, self.items, count)

    def _query(self, number: int) -> Query:
        """Nobody asks the same twice: the oldest event is the request's own."""
        query = self.queries[number % len(self.queries)]
        own = np.array([number % self.items], np.int32)
        return replace(query, history=np.concatenate([own, query.history]))

    def _request(self, number: int) -> Request:
        return replace(self.make(number), user=_user(number))

    def _expanded(self, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
        """All items of the SIDs that came back, with the SIDs' scores."""
        leaf = np.searchsorted(self.keys, _key(np.array(answer.sids), self.rig.space.codes))
        items = (leaf[:, None] * self.bench.owners + np.arange(self.bench.owners)).ravel()
        return items.astype(np.int32), np.repeat(np.array(answer.scores, np.float32), self.bench.owners)

    def _frame(self, number: int, query: Query, items: np.ndarray, unvisited: int) -> Frame:
        visited = items[: self.bench.candidates - unvisited]
        candidates = visited
        if unvisited:
            others = np.random.default_rng(number).integers(0, self.items, unvisited).astype(np.int32)
            candidates = np.concatenate([visited, np.setdiff1d(others, items)])
        place = np.zeros(len(candidates), np.int32)
        place[: len(visited)] = np.arange(1, len(visited) + 1)
        return Frame(
            head={
                "user": _user(number), "profile": query.profile, "text": None, "timeout_s": _PATIENT_S, "deltas": [],
            },
            arrays={
                "history": query.history, "exclude": query.exclude, "items": candidates.astype(np.int32),
                "fused": np.linspace(0, -1, len(candidates), dtype=np.float32), "place generative": place,
            },
        )  # fmt: skip

    async def _read(self, query: Query, items: np.ndarray, user: str | None) -> Scores:
        assert user is not None, "every request of this benchmark has a user"
        request = replace(self._request(int(user)), beam=1)
        return await self.engine.read(request, self.sids[items // self.bench.owners])


def _key(sids: np.ndarray, codes: Sequence[int]) -> np.ndarray:
    """int64 (n,) in the order of SIDs (n, L)."""
    key = np.zeros(len(sids), np.int64)
    for code, size in zip(sids.T, codes, strict=True):
        key = key * size + code
    return key


def _user(number: int) -> str:
    return str(number)


def _sids_of(rig: Rig, leaves: np.ndarray) -> np.ndarray:
    """int64 (n, L) codes of leaves."""
    sids, node = np.empty((len(leaves), rig.space.levels), np.int64), leaves
    for level in range(rig.space.levels - 1, -1, -1):
        sids[:, level] = rig.trie.child_code[node - 1]
        node = np.searchsorted(rig.trie.child_begin, node - 1, side="right") - 1
    return sids
