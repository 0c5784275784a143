"""An open-loop load generator: requests leave when they are due, whether or not earlier ones have come back.

    latency = arrival of the answer's last byte in this machine's kernel − when the request was sent

Nobody waits for an answer before the next request leaves, so that a slow server cannot hide its queue ("coordinated
omission", Tene 2013). Deviation: a latency counts from when a request was really sent, and how late that was is told
apart, because the generator shares the machine with what it measures: its own turns at the processor are neither the
server's time before a request nor after an answer (Linux stamps what arrives, ``SO_TIMESTAMPNS``; elsewhere it counts
until it is read). Keep-alive connections, one request at a time on each; no HTTP library, for the same reason.
"""

from __future__ import annotations

import asyncio
import collections
import socket
import struct
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np

_PATIENCE_S, _REFUSED_S, _WINDOW_S = 30.0, 0.1, 0.5
_TICK_S, _LOOK_S = 0.001, 1.0  # no event loop sleeps for less than a tick
_STAMPS = 35 if sys.platform == "linux" else None  # SO_TIMESTAMPNS, which Python does not name
_STAMP = struct.Struct("@ll")


class _Arrived(NamedTuple):
    """An answer's head, in lower case, and body, and when (perf_counter) it arrived."""

    head: bytes
    body: bytes
    came: float


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


class _Link:
    """One connection.

    Attributes:
        lost: it is closed.
        sent: when (perf_counter) what it is asked now was sent.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._loop = sock, asyncio.get_running_loop()
        self._read = bytearray()
        self._told: Callable[[_Arrived | None], None] = _nobody
        self.lost, self.sent = False, 0.0
        self._loop.add_reader(sock, self._readable)

    @classmethod
    async def open(cls, host: str, port: int) -> _Link:
        """Connect."""
        loop = asyncio.get_running_loop()
        family, kind, protocol, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _STAMPS is not None:
                sock.setsockopt(socket.SOL_SOCKET, _STAMPS, 1)
            await loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def ask(self, request: bytes, told: Callable[[_Arrived | None], None]) -> None:
        """Send; ``told`` is given the answer, or None where the connection is lost before."""
        self._told, self.sent = told, time.perf_counter()
        try:
            whole = self._sock.send(request) == len(request)
        except OSError:
            whole = False
        if not whole:  # requests are small: a buffer that has no room for one belongs to somebody who does not read
            self.close()

    def close(self) -> None:
        """Hang up; once is enough."""
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._tell(None)

    def _tell(self, arrived: _Arrived | None) -> None:
        told, self._told = self._told, _nobody
        told(arrived)

    def _readable(self) -> None:
        try:
            data, notes, _, _ = self._sock.recvmsg(1 << 16, 64)
        except BlockingIOError:
            return
        except OSError:
            data, notes = b"", []
        came = time.perf_counter()
        for _, kind, stamp in notes:
            if kind == _STAMPS:
                seconds, nanoseconds = _STAMP.unpack(stamp)
                came -= max(time.time() - seconds - nanoseconds / 1e9, 0.0)
        if not data:
            self.close()
            return
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0]) if end else 0
        if end and len(body) >= length:
            self._read.clear()
            self._tell(_Arrived(bytes(head), bytes(body), came))


def _nobody(_: _Arrived | None) -> None:
    """Nobody asked."""


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
        self._head = f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n{secret}"
        # Whoever was free for longest is asked next: so all are used, and all gateways that they lead to.
        self._free: collections.deque[_Link] = collections.deque()
        self._busy: set[_Link] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._number = 0

    async def closed(self, workers: int, seconds: float) -> Outcomes:
        """``workers`` that each ask again as soon as they are answered: what the service can do at most.

        One that is refused waits a moment, as it was told to: else capacity would be spent on refusing.
        """
        outcomes, begun = Outcomes(), time.perf_counter()

        async def work() -> None:
            while (now := time.perf_counter()) - begun < seconds:
                if await self._ask(outcomes, begun, now - begun) in (429, 503):
                    await asyncio.sleep(_REFUSED_S)

        await self._patiently(work() for _ in range(workers))
        return outcomes

    async def open(self, rate: float, seconds: float, seed: int = 0) -> Outcomes:
        """Poisson arrivals of ``rate`` a second, given their number: so a short phase asks for that rate, too."""
        return await self.at(np.sort(np.random.default_rng(seed).uniform(0, seconds, int(rate * seconds))).tolist())

    async def at(self, due: Iterable[float]) -> Outcomes:
        """One request at each of these seconds from now on, in order."""
        outcomes, begun, asked = Outcomes(), time.perf_counter(), list[asyncio.Future[int]]()

        async def ask() -> None:
            for moment in due:
                while (wait := moment - (time.perf_counter() - begun)) > 0:
                    await asyncio.sleep(max(wait, _TICK_S))
                asked.append(self._ask(outcomes, begun, moment))
            await asyncio.gather(*asked)

        await self._patiently([ask()])
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        for link in self._free:
            link.close()

    def _ask(self, outcomes: Outcomes, begun: float, due: float) -> asyncio.Future[int]:
        """Send one request; the status, 0 where no answer came, once it is among the outcomes."""
        self._number += 1
        body = self._body(self._number)
        request = f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def over(sent: float, arrived: _Arrived | None) -> None:
            status = 0 if arrived is None else int(arrived.head[9:12])
            outcomes.due.append(due)
            outcomes.late_s.append(sent - begun - due)
            outcomes.latency_s.append((time.perf_counter() if arrived is None else arrived.came) - sent)
            outcomes.status.append(status)
            outcomes.retry_after.append(arrived is not None and b"\r\nretry-after:" in arrived.head)
            answer = _read(arrived.body) if arrived is not None and status == 200 else None
            outcomes.reasons.append(() if answer is None else answer.coverage.reasons)
            outcomes.channels_ms.append(0.0 if answer is None else answer.timing_ms["channels"])
            if not answered.done():
                answered.set_result(status)

        def ask(link: _Link) -> None:
            def told(arrived: _Arrived | None) -> None:
                self._busy.discard(link)
                if arrived is not None:
                    self._free.append(link)
                over(link.sent, arrived)

            self._busy.add(link)
            link.ask(request, told)

        async def connect() -> None:
            sent = time.perf_counter()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    link = await _Link.open(self._host, self._port)
            except OSError:  # TimeoutError among them
                over(sent, None)
            else:
                ask(link)

        while self._free:
            if not (link := self._free.popleft()).lost:
                ask(link)
                return answered
        connecting = asyncio.create_task(connect())
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)
        return answered

    async def _patiently(self, work: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Do it, and meanwhile hang up on whom no answer came for too long."""

        async def watch() -> None:
            while True:
                await asyncio.sleep(_LOOK_S)
                for link in [one for one in self._busy if time.perf_counter() - one.sent > _PATIENCE_S]:
                    link.close()

        watching = asyncio.create_task(watch())
        try:
            await asyncio.gather(*work)
        finally:
            watching.cancel()


def recovered(before: Outcomes, after: Outcomes) -> float:
    """Seconds until every half second was like those of before.

    Like them: no more refused than in the worst of them, and a median up to that one's or twice the usual.
    """
    known = _half_seconds(before)
    slow = max([2 * float(np.median(before.latency_s)), *(median for _, median, _ in known)])
    most = max((refused for _, _, refused in known), default=0)
    unlike = [begin for begin, median, refused in _half_seconds(after) if median > slow or refused > most]
    return max(unlike) + _WINDOW_S if unlike else 0.0


def _half_seconds(outcomes: Outcomes) -> list[tuple[float, float, int]]:
    """When each began that anybody asked in, its median latency, and how many got no answer."""
    due, latency, status = np.asarray(outcomes.due), np.asarray(outcomes.latency_s), np.asarray(outcomes.status)
    found = []
    for begin in np.arange(0.0, due.max(initial=0.0), _WINDOW_S).tolist():
        inside = (due >= begin) & (due < begin + _WINDOW_S)
        if inside.any():
            found.append((begin, float(np.median(latency[inside])), int((status[inside] != 200).sum())))
    return found
