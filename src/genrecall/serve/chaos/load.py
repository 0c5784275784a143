"""An open-loop load generator: requests leave when they are due, whether or not earlier ones have come back.

    latency = arrival of the answer's last byte in this machine's kernel − when the request was sent

Nobody waits for an answer before the next request leaves, so that a slow server cannot hide its queue ("coordinated
omission", Tene 2013). Deviation: a latency counts from when a request was really sent, and how late that was is told
apart, because the generator shares the machine with what it measures: its own turns at the processor are neither the
server's time before a request nor after an answer (Linux stamps what arrives, ``SO_TIMESTAMPNS``; elsewhere it counts
until it is read). Keep-alive connections, one request at a time on each; no HTTP library, and one turn at the
processor a millisecond in which all that arrived is read and all that is due sent, for the same reason.
"""

from __future__ import annotations

import asyncio
import collections
import selectors
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np

from genrecall.serve.chaos.link import Arrived, Link

_PATIENCE_S, _REFUSED_S, _WINDOW_S, _LASTING_S = 30.0, 0.1, 0.5, 2.0
_TICK_S, _LOOK_S = 0.001, 1.0  # no event loop sleeps for less than a tick


class _Coverage(msgspec.Struct):
    beam: int
    reasons: list[str]


class _Answer(msgspec.Struct):
    coverage: _Coverage
    timing_ms: dict[str, float]


_read = msgspec.json.Decoder(_Answer).decode


@dataclass(kw_only=True, eq=False)
class Outcomes:
    """What became of the requests of one phase: parallel lists, one entry a request.

    Attributes:
        due: seconds since the phase began.
        latency_s: from when it was sent to the last byte's arrival.
        late_s: from due to when it was sent: the generator's own.
        status: of HTTP; 0 where the connection failed.
        reasons: why the answer was degraded; none where it was whole.
        channels_ms: what the answer spent waiting for channels.
        retry_after: whether a refusal said when to come back.
    """

    due: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    reasons: list[Sequence[str]] = field(default_factory=list)
    channels_ms: list[float] = field(default_factory=list)
    retry_after: list[bool] = field(default_factory=list)

    @property
    def degraded(self) -> list[bool]:
        """Whether the answers said so."""
        return [bool(reasons) for reasons in self.reasons]

    @property
    def span_s(self) -> float:
        """Seconds from the phase's beginning to the last answer; 1 where nobody asked."""
        return float(np.max(np.array([self.due, self.late_s, self.latency_s]).sum(0), initial=0.0)) or 1.0

    def latencies(self, *statuses: int) -> np.ndarray:
        """float64 seconds of the requests with these statuses."""
        wanted = np.isin(self.status, statuses)
        return np.asarray(self.latency_s)[wanted]


class _Asked(NamedTuple):
    """A request: of which phase, that began when (perf_counter), due when after that, and who is told its status."""

    outcomes: Outcomes
    begun: float
    due: float
    done: Callable[[int], None]


class Client:
    """Connections to one address.

    Args:
        host, port: of the data listener.
        body: makes the n-th request's body.
        key: API key, if the service wants one.
        path: what is asked.
    """

    def __init__(
        self, host: str, port: int, body: Callable[[int], bytes], *, key: str | None = None, path: str = "/v1/recommend"
    ) -> None:
        self._host, self._port, self._body = host, port, body
        secret = f"authorization: Bearer {key}\r\n" if key else ""
        head = f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n{secret}"
        self._head = f"{head}content-length: ".encode()
        # Whoever was free for longest is asked next: so all are used, and all gateways that they lead to.
        self._free: collections.deque[Link] = collections.deque()
        self._links: set[Link] = set()
        self._arrivals = selectors.DefaultSelector()
        self._connecting: set[asyncio.Task[None]] = set()
        self._number = 0

    async def closed(self, workers: int, seconds: float) -> Outcomes:
        """``workers`` that each ask again in the next tick after an answer: what the service can do at most.

        One that is refused waits a moment, as it was told to: else capacity would be spent on refusing.
        """
        outcomes, begun, loop = Outcomes(), time.perf_counter(), asyncio.get_running_loop()

        async def work() -> None:
            while (now := time.perf_counter()) - begun < seconds:
                status: asyncio.Future[int] = loop.create_future()
                self._ask(_Asked(outcomes, begun, now - begun, status.set_result))
                if await status in (429, 503):
                    await asyncio.sleep(_REFUSED_S)

        await self._until(asyncio.gather(*(work() for _ in range(workers))))
        return outcomes

    async def open(self, rate: float, seconds: float, seed: int = 0) -> Outcomes:
        """Poisson arrivals of ``rate`` a second, given their number: so a short phase asks for that rate, too."""
        return await self.at(np.sort(np.random.default_rng(seed).uniform(0, seconds, int(rate * seconds))).tolist())

    async def at(self, due: Iterable[float]) -> Outcomes:
        """One request at each of these seconds from now on, in order."""
        outcomes, begun = Outcomes(), time.perf_counter()
        coming, over = collections.deque(due), asyncio.get_running_loop().create_future()
        left = len(coming)

        def done(_: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                over.set_result(None)

        def ask() -> None:
            while coming and coming[0] <= time.perf_counter() - begun:
                self._ask(_Asked(outcomes, begun, coming.popleft(), done))

        if coming:
            await self._until(over, ask)
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        for link in self._free:
            link.close()
        self._arrivals.close()

    def _ask(self, asked: _Asked) -> None:
        """Send one request; it is among the outcomes before ``asked.done`` is called."""
        self._number += 1
        body = self._body(self._number)
        request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        while self._free:
            if not (link := self._free.popleft()).lost:
                link.ask(request, partial(self._over, asked))
                return
            self._links.discard(link)
        connecting = asyncio.create_task(self._connect(request, asked))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, request: bytes, asked: _Asked) -> None:
        sent = time.perf_counter()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                link = await Link.open(self._host, self._port, self._free, self._arrivals)
        except OSError:  # TimeoutError among them
            self._over(asked, sent, None)
        else:
            self._links.add(link)
            link.ask(request, partial(self._over, asked))

    def _over(self, asked: _Asked, sent: float, arrived: Arrived | None) -> None:
        outcomes, answer, status = asked.outcomes, None, 0
        if arrived is not None:
            status = int(arrived.head[9:12])
            answer = _read(arrived.body) if status == 200 else None
        outcomes.due.append(asked.due)
        outcomes.late_s.append(sent - asked.begun - asked.due)
        outcomes.latency_s.append((time.perf_counter() if arrived is None else arrived.came) - sent)
        outcomes.status.append(status)
        outcomes.retry_after.append(arrived is not None and b"\r\nretry-after:" in arrived.head)
        outcomes.reasons.append(() if answer is None else answer.coverage.reasons)
        outcomes.channels_ms.append(0.0 if answer is None else answer.timing_ms["channels"])
        asked.done(status)

    async def _until(self, over: asyncio.Future[Any], ask: Callable[[], None] = lambda: None) -> None:
        """Until it is over, read what arrived and ask for what is due, once a tick; give up on who is silent too long.

        A turn at the processor costs more than what is done in it, and a service that must wake us is slower, too.
        """
        loop, looked = asyncio.get_running_loop(), time.perf_counter()

        def turn() -> None:
            nonlocal looked
            if over.done():
                return
            loop.call_later(_TICK_S, turn)
            for key, _ in self._arrivals.select(0):
                key.data()
            ask()
            if (now := time.perf_counter()) - looked > _LOOK_S:
                looked = now
                for link in [one for one in self._links if one.busy and now - one.sent > _PATIENCE_S]:
                    link.close()

        turn()
        await over


def recovered(before: Outcomes, after: Outcomes) -> float:
    """Seconds until half seconds were like those of before, two seconds in a row, and never as long unlike them again.

    Like them: no more refused than in the worst of them, and a median up to that one's or twice the usual. A single one
    may be worse than the worst of as many before: of two series that do not differ, the second holds the worst in half
    of all cases.
    """
    known = _half_seconds(before)
    slow = max([2 * float(np.median(before.latency_s)), *(median for _, median, _ in known)])
    most = max((refused for _, _, refused in known), default=0)
    back = last_like = last_unlike = 0.0
    calm = False
    for begin, median, refused in _half_seconds(after):
        end = begin + _WINDOW_S
        if median > slow or refused > most:
            last_unlike = end
            if not calm or end - last_like >= _LASTING_S:
                back, calm = end, False
        else:
            last_like = end
            calm = calm or end - last_unlike >= _LASTING_S
    return back


def _half_seconds(outcomes: Outcomes) -> list[tuple[float, float, int]]:
    """When each began that anybody asked in, its median latency, and how many got no answer."""
    due, latency, status = np.asarray(outcomes.due), np.asarray(outcomes.latency_s), np.asarray(outcomes.status)
    found = []
    for begin in np.arange(0.0, due.max(initial=0.0), _WINDOW_S).tolist():
        inside = (due >= begin) & (due < begin + _WINDOW_S)
        if inside.any():
            found.append((begin, float(np.median(latency[inside])), int((status[inside] != 200).sum())))
    return found
