"""Connections: one write an answer, and refusals that need no task."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from genrecall.serve.config import ServeConfig
from genrecall.serve.http.gate import Gate
from genrecall.serve.http.keys import add
from genrecall.serve.http.protocol import GatedProtocol
from genrecall.serve.limiter import Limiter
from genrecall.serve.listeners import http_server
from genrecall.serve.metrics import Metrics
from genrecall.serve.turns import Turns

ASK = b"%b /v1/recommend HTTP/1.1\r\nhost: localhost\r\nx-request-id: mine\r\ncontent-length: 2\r\n%b\r\n{}"


class Wire:
    """A transport that remembers what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 80)}.get(name, default)

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["state"]["caller"] == "127.0.0.1"
    length = b"0" if scope["method"] == "PUT" else b"2"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": b"" if length == b"0" else b"ok"})


def on_a_wire(
    tmp_path: Path, scenario: Callable[[GatedProtocol, Wire, Gate], Awaitable[None]], most: int = 8, **settings: Any
) -> None:
    async def run() -> None:
        gate = Gate(answers, ServeConfig(state=tmp_path, **settings), Metrics(), [], Limiter(most, 0.25))
        config = http_server(gate).config
        loop = asyncio.get_running_loop()
        protocol = GatedProtocol(config=config, server_state=ServerState(), app_state={}, _loop=loop)
        wire = Wire()
        protocol.connection_made(wire)  # type: ignore[arg-type]
        await scenario(protocol, wire, gate)

    asyncio.run(run())


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_an_answer_is_one_write(tmp_path: Path) -> None:
    async def scenario(protocol: GatedProtocol, wire: Wire, gate: Gate) -> None:
        protocol.data_received(ASK % (b"POST", b""))
        assert gate.inflight == 1
        await _turns()
        (answer,) = wire.written
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nok")
        assert gate.inflight == 0
        protocol.data_received(ASK % (b"HEAD", b""))  # nothing but a head
        await _turns()
        assert len(wire.written) == 2
        assert wire.written[1].endswith(b"\r\n\r\n")
        protocol.data_received(ASK % (b"PUT", b"connection: close\r\n"))
        await _turns()
        assert len(b"".join(wire.written).split(b"HTTP/1.1 200 ")) == 4
        assert wire.closed

    on_a_wire(tmp_path, scenario)


def test_a_refusal_is_written_as_soon_as_a_request_is_read(tmp_path: Path) -> None:
    async def scenario(protocol: GatedProtocol, wire: Wire, gate: Gate) -> None:
        gate.inflight = 1
        protocol.data_received(ASK % (b"POST", b""))
        head, _, body = wire.written[0].partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0].startswith(b"HTTP/1.1 503 ")
        for line in (b"retry-after: 1", b"x-request-id: mine", b"x-content-type-options: nosniff"):
            assert line in lines
        assert b"content-length: %d" % len(body) in lines
        assert b'"code":"overloaded"' in body
        assert gate.inflight == 1
        protocol.data_received(ASK % (b"HEAD", b""))
        await _turns()
        assert wire.written[1].endswith(b"\r\n\r\n")
        gate.inflight = 0
        protocol.data_received(ASK % (b"POST", b""))  # the connection goes on
        await _turns()
        assert wire.written[2].startswith(b"HTTP/1.1 200 ")
        gate.draining = True
        protocol.data_received(ASK % (b"POST", b"connection: close\r\n"))
        assert b"\r\nconnection: close\r\n" in wire.written[3]
        assert wire.closed

    on_a_wire(tmp_path, scenario, most=1)


def _repeated(body: bytes = b"{}", more: bytes = b"") -> bytes:
    return b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n%b\r\n%b" % (len(body), more, body)


def test_a_repeat_is_refused_unread_and_all_else_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    refusal = Gate.refusal

    def counted(self: Gate, scope: Scope) -> Any:
        nonlocal read
        read += 1
        return refusal(self, scope)

    monkeypatch.setattr(Gate, "refusal", counted)

    def shed(gate: Gate) -> float:
        return gate._metrics.totals()["shed"]["inflight"]

    async def scenario(protocol: GatedProtocol, wire: Wire, gate: Gate) -> None:
        gate.inflight = 1
        for body in (b"{}", b"{}", b"[]"):
            protocol.data_received(_repeated(body))
        assert read == 1
        assert shed(gate) == 3
        first, second, _ = wire.written
        ids = [answer.partition(b"x-request-id: ")[2][:16] for answer in (first, second)]
        assert ids[0] != ids[1]
        assert second == first.replace(*ids)  # in the document, too
        assert second.count(ids[1]) == 2
        half = _repeated()[:-1]
        for unlike in (_repeated(b"{ }"), _repeated(more=b"x-request-id: mine\r\n"), half + b"}" + _repeated()):
            before = read
            protocol.data_received(unlike)
            assert read > before
        protocol.data_received(half)
        count = len(wire.written)
        protocol.data_received(b"}" + _repeated())  # the end of one, and another: both are read
        assert len(wire.written) == count + 1
        protocol.data_received(_repeated())
        assert len(wire.written) == count + 2
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in wire.written)
        gate.inflight, before = 0, read
        protocol.data_received(_repeated())
        assert read == before + 1
        await _turns()
        assert wire.written[-1].startswith(b"HTTP/1.1 200 ")
        gate.inflight, gate.draining = 1, True
        protocol.data_received(_repeated())
        assert b'"code":"draining"' in wire.written[-1]

    on_a_wire(tmp_path, scenario, most=1)


def test_a_repeat_needs_its_key_as_before(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    ask = _repeated(more=b"authorization: Bearer %b\r\n" % add(file, "shop").encode())

    async def scenario(protocol: GatedProtocol, wire: Wire, gate: Gate) -> None:
        gate.inflight = 1
        for _ in range(2):
            protocol.data_received(ask)
            assert wire.written[-1].startswith(b"HTTP/1.1 503 ")
        file.unlink()
        protocol.data_received(ask)
        assert wire.written[-1].startswith(b"HTTP/1.1 401 ")

    on_a_wire(tmp_path, scenario, most=1, keys=file)


def test_a_connection_whose_requests_are_refused_is_not_idle(tmp_path: Path) -> None:
    async def scenario(protocol: GatedProtocol, wire: Wire, gate: Gate) -> None:
        gate.inflight, protocol.timeout_keep_alive = 1, 0.05  # type: ignore[assignment]
        for _ in range(5):
            protocol.data_received(_repeated())
            await asyncio.sleep(0.03)
        assert not wire.closed
        await asyncio.sleep(0.1)
        assert wire.closed

    on_a_wire(tmp_path, scenario, most=1)


def test_a_fault_of_the_gates_own_is_a_500_with_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Gate, path: str, authorization: str, client: str, *, counted: bool = True) -> str:
        raise OSError("the table of rates is gone")

    monkeypatch.setattr(Gate, "let_in", broken)

    async def scenario(protocol: GatedProtocol, wire: Wire, gate: Gate) -> None:
        protocol.data_received(ASK % (b"POST", b""))
        await _turns()
        assert wire.written[0].startswith(b"HTTP/1.1 500 ")
        assert b"\r\nx-request-id: mine\r\n" in wire.written[0]
        assert b'"code":"internal"' in wire.written[0]
        assert gate.inflight == 0

    on_a_wire(tmp_path, scenario)


def test_a_burst_of_requests_is_counted_before_any_begins(tmp_path: Path) -> None:
    async def scenario(protocol: GatedProtocol, wire: Wire, gate: Gate) -> None:
        second, other = (
            GatedProtocol(
                config=protocol.config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop()
            ),
            Wire(),
        )
        second.connection_made(other)  # type: ignore[arg-type]
        protocol.data_received(ASK % (b"POST", b""))
        second.data_received(ASK % (b"POST", b""))
        assert other.written[0].startswith(b"HTTP/1.1 503 ")
        await _turns()
        assert wire.written[0].startswith(b"HTTP/1.1 200 ")

    on_a_wire(tmp_path, scenario, most=1)


def test_many_requests_on_one_connection_are_answered_in_order(tmp_path: Path) -> None:
    async def scenario(protocol: GatedProtocol, wire: Wire, gate: Gate) -> None:
        protocol.data_received(ASK % (b"POST", b"") * 2000)
        gate.draining = True  # the first is let in; as many refusals follow, none of them inside another
        for _ in range(4100):
            await _turns(3)
            if b"".join(wire.written).count(b"HTTP/1.1 ") == 2000:
                break
        written = b"".join(wire.written)
        assert written.count(b"HTTP/1.1 200 ") == 1
        assert written.count(b"HTTP/1.1 503 ") == 1999
        assert written.startswith(b"HTTP/1.1 200 ")
        assert gate.inflight == 0

    on_a_wire(tmp_path, scenario)


def test_few_come_through_in_a_turn_of_the_loop_and_in_order() -> None:
    async def scenario() -> None:
        turns, turn, through = Turns(), 0, list[tuple[int, int]]()

        async def pass_by(name: int) -> None:
            await turns.take()
            through.append((turn, name))

        tasks = [asyncio.create_task(pass_by(name)) for name in range(9)]
        for _ in range(3):
            turn += 1
            await asyncio.sleep(0)
        tasks[5].cancel()
        while not all(task.done() for task in tasks):
            turn += 1
            await asyncio.sleep(0)
        assert [name for _, name in through] == [0, 1, 2, 3, 4, 6, 7, 8]
        assert all(sum(when == one for when, _ in through) <= 2 for one, _ in through)
        begun = turn
        await turns.take()  # nobody else: at once
        assert begun == turn

    asyncio.run(scenario())
