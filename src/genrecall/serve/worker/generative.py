"""The engine's process: opens one bundle and answers queries, beside whatever the engine's own protocol asks.

| kind | head, arrays | reply |
|---|---|---|
| open | | opened, once the bundle is loaded and warm: digest, device, base_s, row_s, passes, reads_search |
| recall | k, beam, narrowest, timeout_s, trace, user, profile, text, tag; history int32, exclude int32, times int64,
  barred uint8, of int32 | listed: cold, invalid, narrowed, beam, levels; items int32 (n,), scores float32 (n,) |

Item indices are the bundle's. The rest of the kinds are ``engine.worker.server``'s, and ask the first engine. Prompts
are written here, so that the gateway's loop needs no tokens; of several SID tables each member's model scores what
any of them found (``recall.ensemble``). What only this process suffers from (no memory, a broken kernel) ends it, and
the gateway starts another.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.bundle.load import Recommender
from genrecall.engine.asynchronous import AsyncEngine
from genrecall.engine.config import Budgets, Parallel
from genrecall.engine.host.request import Answer, LevelTrace, Scores
from genrecall.engine.worker.frames import Frame
from genrecall.engine.worker.record import Record
from genrecall.engine.worker.server import Handler, handlers_of
from genrecall.hardware import spare_workspace
from genrecall.recall.channel import Query
from genrecall.recall.ensemble import ranked, union
from genrecall.recall.generative import GenerativeChannel
from genrecall.serve.default import FALLBACK
from genrecall.serve.settle import settle
from genrecall.serve.worker import life
from genrecall.serve.worker.config import MAX_BEAM
from genrecall.serve.worker.cost import TARGET_S
from genrecall.serve.worker.messages import query_of
from genrecall.serve.worker.ranking import RankingDesk

_SWITCH_S = 0.0005
_BEHIND = 15
_NOTHING = np.empty(0, np.int32)
_KNOWN = 8


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """What comes with a query, beside itself."""

    beam: int
    narrowest: int | None
    timeout_s: float
    trace: bool
    user: str | None
    tag: int


class Desk:
    """Answers queries from a bundle.

    Args:
        shop: the bundle, loaded.
        record: where the engine's progress is written.
    """

    def __init__(self, shop: Recommender, record: Record) -> None:
        self.shop, self.members = shop, shop.generative.members
        if self.members[0].engine.device.type == "cuda":
            self.warm_up()
        base_s, row_s = self._measure()
        passes = 1 if len(self.members) == 1 else 2 * len(self.members)
        record.moved([], (0, 0))
        self.engine = AsyncEngine(*(member.engine for member in self.members), observer=record)
        self.ranking = None if shop.ranker is None else RankingDesk(shop.ranker, self._read)
        self.opened = {
            "kind": "opened", "digest": shop.digest, "device": str(self.members[0].engine.device), "base_s": base_s,
            "row_s": row_s, "passes": passes, "reads_search": shop.reads_search("a"),
        }  # fmt: skip

    def warm_up(self) -> None:
        """Compile and capture batches of every power of two of requests, and sizes for all others: on a GPU the first
        batch of a new size waits a tenth of a second, or seconds.
        """
        beam, query = self._usual()
        for member in self.members:
            limits = member.engine.loop.scheduler.limits
            most = max(min(limits.requests, limits.rows // beam), 1)
            request = member.request(query, beam)
            member.engine.warm_up([request], [1 << power for power in range(most.bit_length())])
            member.engine.warm_up_all(request, widest=MAX_BEAM)

    async def recall(self, frame: Frame) -> Frame:
        """The best items of one query."""
        head, k = frame.head, int(frame.head["k"])
        query = query_of(frame)
        if self._is_cold(query):
            return Frame(head={"kind": "listed", "cold": True}, arrays={"items": _NOTHING, "scores": _NOTHING})
        limits = _Limits(
            beam=head["beam"], narrowest=head["narrowest"], timeout_s=head["timeout_s"], trace=head["trace"],
            user=head["user"], tag=head["tag"],
        )  # fmt: skip
        with self.engine.begun.replying(limits.tag):
            return await self._recalled(query, k, limits)

    async def _recalled(self, query: Query, k: int, limits: _Limits) -> Frame:
        answers = await asyncio.gather(*(self._generate(place, query, limits) for place in range(len(self.members))))
        if len(answers) == 1:
            found = self.members[0].expand(answers[0], query, k)
            items, scores = np.array(found[0], np.int32), np.array(found[1], np.float32)
        else:
            items, scores = await self._joined(query, answers, k, limits)
        levels = answers[0].levels if len(answers) == 1 else None
        if self.ranking is not None and answers[0].state is not None:
            self.ranking.remember(query, answers[0].state, items, scores)
        told = {
            "kind": "listed", "cold": False, "invalid": sum(map(GenerativeChannel.count, self.members, answers)),
            "narrowed": any(answer.narrowed for answer in answers), "beam": min(answer.beam for answer in answers),
            "levels": _written(levels),
        }  # fmt: skip
        arrays = {"items": items.astype(np.int32), "scores": scores.astype(np.float32)}
        return Frame(head=told, arrays=arrays)

    async def _generate(self, place: int, query: Query, limits: _Limits) -> Answer:
        member = self.members[place]
        request = replace(
            member.request(query, limits.beam, limits.trace),
            user=limits.user, timeout_s=limits.timeout_s, narrowest=limits.narrowest, tag=limits.tag,
            state=self.ranking is not None and place == 0,
        )  # fmt: skip
        return await self.engine.generate(request, place)

    async def _joined(
        self, query: Query, answers: list[Answer], k: int, limits: _Limits
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``EnsembleChannel.recall``."""
        depth = max(k, limits.beam)
        lists = [
            np.array(member.expand(answer, query, depth)[0], np.int32)
            for member, answer in zip(self.members, answers, strict=True)
        ]
        candidates = union(lists)
        scores = await asyncio.gather(
            *(self._score(place, query, candidates, limits) for place in range(len(self.members)))
        )
        return ranked(candidates, scores, k)

    async def _score(self, place: int, query: Query, candidates: np.ndarray, limits: _Limits) -> np.ndarray:
        member = self.members[place]
        # No beam is searched: it says how much of what was asked for this is.
        request = replace(member.request(query, limits.beam), allowed=None, user=limits.user, tag=limits.tag)
        sids, most = member.table.sids[candidates], member.engine.loop.scheduler.limits.rows
        parts = [
            await self.engine.score(request, sids[begin : begin + most], place)
            for begin in range(0, max(len(sids), 1), most)
        ]
        return np.concatenate(parts)

    async def _read(self, query: Query, items: np.ndarray, user: str | None) -> Scores:
        """Mean scores of items by all members, and the first one's state."""
        states: list[np.ndarray] = []
        scores = []
        for place, member in enumerate(self.members):
            request = replace(member.request(query, 1), allowed=None, user=user)
            sids, most = member.table.sids[items], member.engine.loop.scheduler.limits.rows - 1
            parts = [
                await self.engine.read(request, sids[begin : begin + most], place)
                for begin in range(0, max(len(sids), 1), most)
            ]
            states.append(parts[0].state)
            scores.append(np.concatenate([part.scores for part in parts]))
        return Scores(scores=np.asarray(np.mean(scores, axis=0, dtype=np.float32)), state=states[0])

    def _is_cold(self, query: Query) -> bool:
        """Nothing is known that the prompt could show: the model would only repeat its prior."""
        prompts = self.members[0].prompts
        told = bool(query.profile) and prompts.head(query.profile) != prompts.head()
        return not len(query.history) and not told and not query.text

    def _usual(self) -> tuple[int, Query]:
        """A beam and a query of the usual size."""
        items = len(self.shop.items)
        return min(self.members[0].config.beam, items), Query(history=np.arange(min(_KNOWN, items), dtype=np.int32))

    def _measure(self) -> tuple[float, float]:
        """Base and row time of a batch, by running small and larger ones; the engine learns its own costs from them."""
        beam, query = self._usual()
        times = []
        for requests in (1, 1, 4, 4, 2, 8, 1, 4):  # the first of each size pays for what is only done once
            begun = time.monotonic()
            self.shop.generative.recall([query] * requests, 10, beams=[beam] * requests)
            times.append((requests, time.monotonic() - begun))
        one, four = (min(seconds for n, seconds in times if n == size) for size in (1, 4))
        row_s = max((four - one) / (3 * beam), 1e-7)
        return max(one - row_s * beam, 1e-6), row_s


def main(
    directory: str, bundle: str, device: str, threads: str, batch_rows: str, beam: str, ranks: str,
    sequence_tokens: str, all_reduce: str,
) -> None:  # fmt: skip
    """The process; 0 stands for automatic."""
    import torch

    spare_workspace()
    sys.setswitchinterval(_SWITCH_S)  # the engine's thread must not wait for a whole turn of the sockets' thread
    if int(threads):
        torch.set_num_threads(int(threads))
    desk: list[Desk] = []

    def load() -> Desk:
        rows = int(batch_rows) or None
        budgets = Budgets(batch_s=TARGET_S)
        shop = Recommender.load(
            bundle,
            device=device,
            beam=int(beam) or None,
            parallel=Parallel(ranks=int(ranks), sequence_tokens=int(sequence_tokens), all_reduce=all_reduce),
            max_rows=rows,
            budgets=budgets,
            only=(FALLBACK,),
        )
        return Desk(shop, Record(Path(directory) / "record"))

    async def open_(frame: Frame) -> Frame:
        if not desk:
            desk.append(await asyncio.to_thread(load))
            handlers.update(handlers_of(desk[0].engine) | {"recall": desk[0].recall})
            if desk[0].ranking is not None:
                handlers["rank"] = desk[0].ranking.rank
            settle()
            if desk[0].members[0].engine.device.type == "cpu":  # a GPU's work is only launched here
                life.step_back(_BEHIND)
        return Frame(head=desk[0].opened)

    handlers: dict[str, Handler] = {"open": open_}
    life.answer(Path(directory), handlers)


def _written(levels: tuple[LevelTrace, ...] | None) -> list[list[list[Any]]] | None:
    if levels is None:
        return None
    return [[[list(beam.prefix), beam.score, beam.children, beam.pruned] for beam in level.beams] for level in levels]
