"""An open-loop load generator: requests leave when they are due, whether or not earlier ones have come back.

A latency counts from when a request was due, so that a slow server cannot hide its queue by slowing the generator down
("coordinated omission", Tene 2013). Keep-alive connections, one request at a time on each; no HTTP library, because the
generator shares the machine with what it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

_PATIENCE_S = 30.0


class _Coverage(msgspec.Struct):
    degraded: bool
    beam: int


class _Answer(msgspec.Struct):
    coverage: _Coverage
    timing_ms: dict[str, float]


_read = msgspec.json.Decoder(_Answer).decode


@dataclass(kw_only=True, eq=False)
class Outcomes:
    """What became of the requests of one phase: parallel lists, one entry a request.

    Attributes:
        due: seconds since the phase began.
        latency_s: from due to the last byte.
        status: of HTTP; 0 where the connection failed.
        degraded: whether the answer said so.
        channels_ms: what the answer spent waiting for channels.
        retry_after: whether a refusal said when to come back.
    """

    due: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    degraded: list[bool] = field(default_factory=list)
    channels_ms: list[float] = field(default_factory=list)
    retry_after: list[bool] = field(default_factory=list)

    def latencies(self, *statuses: int) -> np.ndarray:
        """float64 seconds of the requests with these statuses."""
        wanted = np.isin(self.status, statuses)
        return np.asarray(self.latency_s)[wanted]


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
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._number = 0

    async def closed(self, workers: int, seconds: float) -> Outcomes:
        """``workers`` that each ask again as soon as they are answered: what the service can do at most."""
        outcomes, begun = Outcomes(), time.perf_counter()

        async def work() -> None:
            while (now := time.perf_counter()) - begun < seconds:
                await self._ask(outcomes, begun, now - begun)

        await asyncio.gather(*(work() for _ in range(workers)))
        return outcomes

    async def open(self, rate: float, seconds: float, seed: int = 0) -> Outcomes:
        """Poisson arrivals of ``rate`` a second."""
        count = int(rate * seconds)
        due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count)).tolist()
        outcomes, begun, tasks = Outcomes(), time.perf_counter(), []
        for moment in due:
            if (wait := moment - (time.perf_counter() - begun)) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._ask(outcomes, begun, moment)))
        await asyncio.gather(*tasks)
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        for _, writer in self._free:
            writer.close()

    async def _ask(self, outcomes: Outcomes, begun: float, due: float) -> None:
        self._number += 1
        body = self._body(self._number)
        status, told, retry = 0, b"", False
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = self._free.pop() if self._free else await self._connect()
                writer.write(f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body)
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                lower = head.lower()
                retry = b"\r\nretry-after:" in lower
                told = await reader.readexactly(int(lower.partition(b"content-length:")[2].split(b"\r\n")[0]))
                self._free.append((reader, writer))
        except (OSError, EOFError, TimeoutError):
            status = 0
        outcomes.due.append(due)
        outcomes.latency_s.append(time.perf_counter() - begun - due)
        outcomes.status.append(status)
        outcomes.retry_after.append(retry)
        answer = _read(told) if status == 200 else None
        outcomes.degraded.append(answer is not None and answer.coverage.degraded)
        outcomes.channels_ms.append(0.0 if answer is None else answer.timing_ms["channels"])

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)
