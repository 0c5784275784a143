"""What gateway and worker say to each other, as msgpack arrays; item lists travel as raw little-endian integers."""

from __future__ import annotations

import msgspec
import numpy as np

from genrecall.engine.host.request import LevelTrace
from genrecall.recall.channel import Query
from genrecall.serve.worker.frames import FrameError


class Ask(msgspec.Struct, tag="ask", array_like=True, frozen=True):
    """One query. ``budget_s`` counts from arrival, so that clocks need not agree."""

    number: int
    history: bytes
    times: bytes | None
    exclude: bytes
    profile: dict[str, str]
    text: str | None
    k: int
    beam: int
    trace: bool
    budget_s: float

    def query(self) -> Query:
        """As channels take it."""
        return Query(
            history=np.frombuffer(self.history, "<i4"),
            times=None if self.times is None else np.frombuffer(self.times, "<i8"),
            exclude=np.frombuffer(self.exclude, "<i4"),
            profile=self.profile,
            text=self.text,
        )


class Cancel(msgspec.Struct, tag="cancel", array_like=True, frozen=True):
    """Nobody waits for this query any more."""

    number: int


class Opened(msgspec.Struct, tag="opened", array_like=True, frozen=True):
    """The bundle is loaded and warm.

    Attributes:
        digest: of the bundle.
        device: that it runs on.
        base_s, row_s: measured time of a batch: base_s + row_s · rows.
        batch_rows: rows that one batch takes at most.
        reads_search: whether the model was trained on searches.
    """

    digest: str
    device: str
    base_s: float
    row_s: float
    batch_rows: int
    reads_search: bool


class Traced(msgspec.Struct, array_like=True, frozen=True):
    """A beam that survived a level (see ``engine.host.request.TracedBeam``)."""

    prefix: list[int]
    score: float
    children: int
    pruned: int


class Found(msgspec.Struct, tag="found", array_like=True, frozen=True):
    """The answer to an Ask.

    Attributes:
        items, scores: int32 and float32, best first.
        waited_s, ran_s: in the worker's queue; in the batch that held it.
        rows: beams of that batch.
        cold: the model was not asked, because nothing is known of this user that it could read.
        levels: where a trace was asked for and one generator answered.
    """

    number: int
    items: bytes
    scores: bytes
    waited_s: float
    ran_s: float
    rows: int
    cold: bool = False
    levels: list[list[Traced]] | None = None


class Failed(msgspec.Struct, tag="failed", array_like=True, frozen=True):
    """No answer: ``deadline``, or ``error`` with what went wrong."""

    number: int
    code: str
    what: str


class Beat(msgspec.Struct, tag="beat", array_like=True, frozen=True):
    """Sent by the thread that computes, so that it proves progress and not only life."""

    batches: int
    waiting: int
    running: list[int]


Inward = Ask | Cancel
Outward = Opened | Found | Failed | Beat

encode = msgspec.msgpack.Encoder().encode
_inward = msgspec.msgpack.Decoder(Inward)
_outward = msgspec.msgpack.Decoder(Outward)


def decode_inward(body: bytes) -> Inward:
    """What the gateway said; FrameError where it is no message."""
    try:
        return _inward.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameError(f"no message: {error}") from None


def decode_outward(body: bytes) -> Outward:
    """What the worker said; FrameError where it is no message."""
    try:
        return _outward.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameError(f"no message: {error}") from None


def traced(levels: tuple[LevelTrace, ...] | None) -> list[list[Traced]] | None:
    """A trace as it travels."""
    if levels is None:
        return None
    return [
        [Traced(list(beam.prefix), beam.score, beam.children, beam.pruned) for beam in level.beams] for level in levels
    ]
