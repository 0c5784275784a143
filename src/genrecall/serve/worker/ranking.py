"""The ranker beside the engine: reads what the engine has computed of a request, and scores candidates with it.

| kind | head, arrays | reply |
|---|---|---|
| rank | user, profile, text, timeout_s, deltas (paths, oldest first); history int32, exclude int32, times
  int64, items int32 (n,), fused float32 (n,), ``place NAME`` int32 (n,) | ranked: version; logits, probabilities |

A state and scores that a search of the same query left behind are taken as they are, so that no prompt is read twice;
candidates that no beam visited go through ``Engine.score``. Requests that come while others are being scored are scored
together after these. Deltas that a request names and the tables lack are applied
before it is scored, so that a worker which was started again catches up by itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from genrecall.engine.compiled import seal_all
from genrecall.engine.host.request import Scores
from genrecall.engine.worker.frames import Frame
from genrecall.errors import DataError
from genrecall.rank.columns import Asked, Ragged
from genrecall.rank.delta import read_delta
from genrecall.rank.recalled import Recalled
from genrecall.rank.score import Ranker, Scored
from genrecall.recall.channel import Query
from genrecall.serve.worker.messages import query_of

_REMEMBERED, _MOST = 512, 32
Read = Callable[[Query, np.ndarray, str | None], Awaitable[Scores]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Known:
    """What a search left: the state, the items that it found, ascending, and their scores."""

    state: np.ndarray
    items: np.ndarray
    scores: np.ndarray

    def of(self, items: np.ndarray) -> np.ndarray:
        """float32 (n,), NaN for what it did not find."""
        if len(self.items) == 0:
            return np.full(len(items), np.nan, np.float32)
        at = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        return np.where(self.items[at] == items, self.scores[at], np.float32(np.nan))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Told:
    """One request: what its frame says, and what the generator says of its candidates."""

    frame: Frame
    query: Query
    state: np.ndarray
    sid_scores: np.ndarray


@dataclass(kw_only=True, eq=False)
class _Batch:
    """Requests that will be scored together, and whoever does it."""

    told: list[_Told] = field(default_factory=list)
    task: asyncio.Task[list[Scored]] | None = None


class RankingDesk:
    """Ranks with one ranker.

    Args:
        ranker: of the bundle.
        read: asks the engines for scores of items and for the state: query, items, user.
    """

    def __init__(self, ranker: Ranker, read: Read) -> None:
        self.ranker, self._read = ranker, read
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        tables = ((name, ranker.tables.of(name)) for name in ranker.tables.names)
        self._shapes = {name: (len(table), table.shape[1]) for name, table in tables}
        self._applying, self._scoring = asyncio.Lock(), asyncio.Lock()
        self._next: _Batch | None = None
        if ranker.device.type == "cuda":
            ranker.warm_up()
            seal_all()

    def remember(self, query: Query, state: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
        """Keep what a search computed, for the ranking of the same query."""
        order = np.argsort(items)
        self._known[_key(query)] = _Known(state=state, items=items[order], scores=scores[order])
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def rank(self, frame: Frame) -> Frame:
        """Score one request's candidates."""
        head, arrays = frame.head, frame.arrays
        await self._catch_up(head["deltas"])
        query, items = query_of(frame), arrays["items"]
        sizes = {name: len(own) for name, own in arrays.items() if name == "fused" or name.startswith("place ")}
        if set(sizes.values()) - {len(items)}:
            raise DataError(
                "what is said of a request's candidates is not of as many", seen=f"{len(items)} items, {sizes}",
                allowed="one number a candidate", fix="send them in one order, all of them",
            )  # fmt: skip
        async with asyncio.timeout(head["timeout_s"]):
            state, sid_scores = await self._understood(query, items, head["user"])
            scored = await self._score(_Told(frame=frame, query=query, state=state, sid_scores=sid_scores))
        return Frame(
            head={"kind": "ranked", "version": scored.version},
            arrays={"logits": scored.logits, "probabilities": scored.probabilities},
        )

    async def _score(self, told: _Told) -> Scored:
        batch = self._next
        if batch is None or batch.task is None or len(batch.told) == _MOST:
            batch = self._next = _Batch()
            batch.task = asyncio.create_task(self._run(batch))
        batch.told.append(told)
        place = len(batch.told) - 1
        return (await asyncio.shield(batch.task))[place]  # whoever gives up leaves the others theirs

    async def _run(self, batch: _Batch) -> list[Scored]:
        async with self._scoring:
            if self._next is batch:
                self._next = None
            found = await asyncio.to_thread(lambda: self.ranker.score(self._asked(batch.told)))
        return found.split([len(told.sid_scores) for told in batch.told])

    def _asked(self, batch: Sequence[_Told]) -> Asked:
        """Of all of a batch at once: a few calls of NumPy instead of a few dozen a request."""
        arrays, schema = [told.frame.arrays for told in batch], self.ranker.schema
        names = {name for own in arrays for name in own if name.startswith("place ")}

        def all_of(name: str, unknown: float) -> np.ndarray:
            parts = [own.get(name, np.full(len(own["items"]), unknown, np.float32)) for own in arrays]
            return np.concatenate(parts)

        found = Recalled(
            candidates=Ragged.of([own["items"] for own in arrays]),
            scores=all_of("fused", np.nan),
            places={name.removeprefix("place "): all_of(name, -1) for name in names},
        )
        return Asked(
            users=[told.frame.head["user"] for told in batch],
            profiles=[told.frame.head["profile"] for told in batch],
            histories=Ragged.of([told.query.history for told in batch]),
            candidates=found.candidates,
            evidence=found.evidence(schema.evidence, np.concatenate([told.sid_scores for told in batch])),
            state=np.stack([told.state for told in batch]) if schema.state else None,
        )

    async def _understood(self, query: Query, items: np.ndarray, user: str | None) -> tuple[np.ndarray, np.ndarray]:
        """The state float32 (E,), and SID scores float32 (n,)."""
        known = self._known.get(_key(query))
        if known is None:
            read = await self._read(query, items, user)
            return read.state, read.scores
        scores = known.of(items)
        missing = np.flatnonzero(np.isnan(scores))
        if len(missing):
            scores[missing] = (await self._read(query, items[missing], user)).scores
        return known.state, scores

    async def _catch_up(self, deltas: Sequence[str]) -> None:
        if len(deltas) <= self.ranker.version:
            return
        async with self._applying:
            for path in deltas[self.ranker.version :]:
                await asyncio.to_thread(self._apply, Path(path))

    def _apply(self, path: Path) -> None:
        ranker = self.ranker
        delta = read_delta(path, ranker=ranker.digest, version=ranker.version, shapes=self._shapes)
        changes = {
            name: (torch.from_numpy(rows), torch.from_numpy(values)) for name, (rows, values) in delta.changes.items()
        }
        ranker.tables.write(changes, delta.version)


def _key(query: Query) -> bytes:
    return query.history.astype("<i4").tobytes() + repr((sorted(query.profile.items()), query.text)).encode()
