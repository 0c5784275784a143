"""The generative channel of one worker process, as a lane."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrecall.engine.host.request import LevelTrace, TracedBeam
from genrecall.engine.worker.connection import WorkerDied
from genrecall.engine.worker.frames import Frame
from genrecall.errors import GenrecallError
from genrecall.recall.channel import Query
from genrecall.serve.lanes import (
    Asked,
    LaneDiedError,
    LaneFailedError,
    LaneShedError,
    Listed,
    RankAsked,
    RankListed,
)
from genrecall.serve.shared import Seat, Tally
from genrecall.serve.worker import messages
from genrecall.serve.worker.child import Child
from genrecall.serve.worker.config import WorkerConfig
from genrecall.serve.worker.cost import BatchCost
from genrecall.serve.worker.supervisor import supervised

_QUARANTINE_AFTER, _QUARANTINE_S, _MAX_SUSPECTS = 2, 600.0, 10_000


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a worker says of itself when it is warm.

    Attributes:
        digest: of the bundle.
        device: that it runs on.
        passes: searches and scorings that one query takes: 1, or two for each of several SID tables.
        reads_search: whether the model was trained on searches.
    """

    digest: str
    device: str
    passes: int
    reads_search: bool


class Suspects:
    """Requests that were being computed when workers died: after two deaths one is refused for ten minutes."""

    def __init__(self) -> None:
        self._deaths: dict[bytes, tuple[int, float]] = {}

    def blame(self, fingerprint: bytes) -> None:
        """It was being computed when a worker died."""
        deaths, _ = self._deaths.pop(fingerprint, (0, 0.0))
        self._deaths[fingerprint] = deaths + 1, time.monotonic()
        if len(self._deaths) > _MAX_SUSPECTS:
            self._deaths.pop(next(iter(self._deaths)))

    def is_quarantined(self, fingerprint: bytes) -> bool:
        """Whether it must not be tried again now."""
        deaths, last = self._deaths.get(fingerprint, (0, 0.0))
        return deaths >= _QUARANTINE_AFTER and time.monotonic() - last < _QUARANTINE_S


class WorkerLane:
    """One worker.

    Args:
        bundle: directory.
        config: settings.
        replica: which of several.
        suspects: shared by all.
        seat: of one of several gateways; the keeper starts the worker, the others connect to it.

    Attributes:
        cost: what batches take.
        facts: None until the first worker is warm.
    """

    name = "generative"

    def __init__(
        self,
        bundle: Path,
        config: WorkerConfig | None = None,
        replica: int = 0,
        suspects: Suspects | None = None,
        seat: Seat | None = None,
    ) -> None:
        self.config = config or WorkerConfig()
        self.suspects = suspects or Suspects()
        self.cost = BatchCost()
        self.facts: Facts | None = None
        self._batches = 0
        self._tags = itertools.count(os.getpid() << 32)  # of this process alone: the worker serves others, too
        place = None if seat is None else seat.directory / f"worker-{replica}"
        self._rows = Tally(place, seat)
        settings = self.config
        arguments = (
            str(bundle), settings.device_of(replica), str(settings.threads or 0), str(settings.batch_rows or 0),
            str(settings.beam or 0), str(settings.ranks), str(settings.sequence_tokens),
            settings.all_reduce,
        )  # fmt: skip
        self.process = supervised(
            f"worker {replica} of {bundle}", messages.generative, arguments, self._opened, settings.start_s, place, seat
        )

    @property
    def rows(self) -> int:
        """Beams of the requests on their way, of all gateways."""
        return self._rows.total

    def expected_s(self, beam: int) -> float:
        """Until one search more, of this width, is done: what runs to its end, then what waits, as far as is known."""
        passes, child = 1 if self.facts is None else self.facts.passes, self.process.child
        begun, busy_s = (0, 0.0) if child is None else (child.record.begun, child.record.busy_s)
        waiting = max(passes * self.rows - begun, 0)
        return busy_s + self.cost.seconds(waiting + passes * beam, beam)

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked."""
        return self.process.state == "ready"

    async def start(self) -> None:
        """See ``Supervisor.start``."""
        await self.process.start()

    async def ask(self, asked: Asked) -> Listed:
        """See ``lanes.Lane``.

        Raises:
            LaneDiedError: the worker ended meanwhile.
            TimeoutError: it says that there is no time for it.
        """
        child = self.process.child
        if child is None or not self.is_ready:
            raise LaneFailedError(f"the worker is {self.process.state}")
        query, tag = asked.query, next(self._tags)
        fingerprint = _fingerprint(query)
        if self.suspects.is_quarantined(fingerprint):
            raise LaneShedError("quarantined: workers died over this request")
        head = {
            "k": asked.k, "beam": asked.beam, "narrowest": asked.narrowest, "timeout_s": max(asked.budget_s, 1e-6),
            "trace": asked.trace, "user": asked.user, "profile": dict(query.profile), "text": query.text, "tag": tag,
        }  # fmt: skip
        cost, expected_s, begun, answered = self.cost, self.expected_s(asked.beam), time.monotonic(), False
        self._rows.add(asked.beam)
        try:
            reply = await child.connection.ask("recall", head, messages.arrays_of(query))
            answered = True
        except WorkerDied:
            if tag in child.record.tags:
                self.suspects.blame(fingerprint)
            raise LaneDiedError("the worker ended") from None
        except GenrecallError as error:
            raise LaneFailedError(error.what) from error
        finally:
            self._rows.add(-asked.beam)
            if not (answered and reply.head["cold"]):  # then the engine was not asked
                cost.waited(expected_s, time.monotonic() - begun, answered=answered)
        self._learn(child)
        return _listed(reply)

    async def rank(self, asked: RankAsked) -> RankListed:
        """Scores of candidates by the bundle's ranker; raises as ``ask`` does."""
        child = self.process.child
        if child is None or not self.is_ready:
            raise LaneFailedError(f"the worker is {self.process.state}")
        frame = messages.rank_frame(asked)
        try:
            reply = await child.connection.ask("rank", frame.head, frame.arrays)
        except WorkerDied:
            raise LaneDiedError("the worker ended") from None
        except GenrecallError as error:
            raise LaneFailedError(error.what) from error
        return messages.rank_listed(reply)

    async def purge(self, user: str) -> None:
        """Forget what the engine keeps of a user; a worker that is not there keeps nothing."""
        child = self.process.child
        if child is not None:
            with contextlib.suppress(WorkerDied):  # with all that it knew
                await child.connection.ask("purge", {"user": user})

    async def close(self) -> None:
        """See ``lanes.Lane``."""
        await self.process.close()

    def _opened(self, frame: Frame) -> None:
        head = frame.head
        self.facts = Facts(
            digest=head["digest"], device=head["device"], passes=head["passes"],
            reads_search=head["reads_search"],
        )  # fmt: skip
        self.cost, self._batches = BatchCost(head["base_s"], head["row_s"]), 0

    def _learn(self, child: Child) -> None:
        batches = child.record.batches
        if batches != self._batches:
            self._batches = batches
            self.cost.see(*child.record.last)


def _fingerprint(query: Query) -> bytes:
    text = repr((sorted(query.profile.items()), query.text)).encode()
    return hashlib.blake2b(query.history.astype("<i4").tobytes() + text, digest_size=16).digest()


def _listed(reply: Frame) -> Listed:
    head = reply.head
    if head["cold"]:
        return Listed(items=reply.arrays["items"], scores=reply.arrays["scores"], cold=True)
    return Listed(
        items=reply.arrays["items"],
        scores=reply.arrays["scores"],
        invalid=head["invalid"],
        narrowed=head["narrowed"],
        beam=head["beam"],
        levels=_levels(head["levels"]),
    )


def _levels(written: list[list[list[Any]]] | None) -> tuple[LevelTrace, ...] | None:
    if written is None:
        return None
    return tuple(
        LevelTrace(
            level=level,
            beams=tuple(
                TracedBeam(prefix=tuple(prefix), score=score, children=children, pruned=pruned)
                for prefix, score, children, pruned in beams
            ),
        )
        for level, beams in enumerate(written)
    )
