"""The means of breaking things: they must break, or the promises that they try are worth nothing."""

import asyncio
import json
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from genrecall.artifacts import open_artifact, write_artifact
from genrecall.errors import ArtifactError
from genrecall.serve.chaos import storage
from genrecall.serve.chaos.load import Client, Outcomes, recovered
from genrecall.serve.chaos.proxy import Proxy
from genrecall.serve.chaos.scenario import Setting, good
from genrecall.serve.chaos.scenarios import SCENARIOS
from genrecall.serve.http.app import data_routes
from genrecall.serve.http.health import Health
from genrecall.serve.service import Service


async def _is_cut(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(5) == b""
    except ConnectionError:
        return True


def test_the_proxy_delays_loses_and_cuts() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(100):
            writer.write(piece)
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        proxy = Proxy(server.sockets[0].getsockname()[1], delay_s=0.03, lost=1.0)
        listening = await proxy.serve()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        begun = time.monotonic()
        writer.write(b"hello")
        assert await reader.read(5) == b"hello"
        assert time.monotonic() - begun >= 2 * 0.23
        proxy.cut()
        assert await _is_cut(reader)
        again, other = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await _is_cut(again)
        proxy.mend()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"there")
        assert await reader.read(5) == b"there"
        for one in (writer, other):
            one.close()
        listening.close()
        server.close()

    asyncio.run(scenario())


def test_writers_are_really_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Setting, "times", lambda self, short, long: 8)
    text, kept = storage.written(Setting(bundle=tmp_path, scratch=tmp_path, users=[]), None)
    assert kept, text
    assert int(text.split(", ")[1].split()[0]) >= 12  # of 24: killed, failed, or out of room


def test_a_damaged_reader_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_opens", lambda path: True)
    monkeypatch.setattr(storage, "dangerous", lambda: [])
    text, kept = storage.pointing(Setting(bundle=tmp_path, scratch=tmp_path, users=[]), None)
    assert not kept
    assert "9 planted: 9 taken" in text


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "a", kind="chaos", config={}) as writer:
        (writer.path / "a").write_text("x")
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"a": {', '"a\\u0000": {'))
    with pytest.raises(ArtifactError):
        open_artifact(tmp_path / "a")


def test_recovery_lasts_until_two_seconds_in_a_row_are_like_before() -> None:
    before = Outcomes(latency_s=[0.01] * 20, due=list(np.arange(20) / 10), status=[200] * 20)
    calm = Outcomes(latency_s=[0.012] * 20, due=list(np.arange(20) / 10), status=[200] * 20)
    assert recovered(before, calm) == 0.0
    slow = Outcomes(latency_s=[0.1] * 9 + [0.01] * 11, due=calm.due, status=calm.status)
    assert recovered(before, slow) == 1.0
    refused = Outcomes(latency_s=before.latency_s, due=calm.due, status=[200] * 12 + [503] + [200] * 7)
    assert recovered(before, refused) == 1.5
    assert recovered(refused, refused) == 0.0  # one was refused in half a second before, too
    assert recovered(slow, slow) == 0.0
    for refusing, found in ((range(19, 20), 2.0), (range(30, 31), 0.0), (range(20, 60), 6.0), (range(60), 6.0)):
        status = [503 if number in refusing else 200 for number in range(60)]
        assert recovered(before, Outcomes(latency_s=[0.01] * 60, due=list(np.arange(60) / 10), status=status)) == found
    some = Outcomes(latency_s=[0.1, 0.3, 0.1], late_s=[0.0] * 3, due=[0.0, 0.0, 0.9], status=[200, 200, 503])
    assert good(some) == pytest.approx(1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="arrivals are stamped by Linux")
def test_the_generators_own_turns_are_no_latency() -> None:
    body = json.dumps(
        {"coverage": {"degraded": False, "beam": 1, "reasons": []}, "timing_ms": {"channels": 1.0}}
    ).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    class Answers(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline():
                while self.rfile.readline() != b"\r\n":
                    pass
                self.rfile.read(2)
                self.wfile.write(answer)
                self.wfile.write(body)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    async def scenario(port: int) -> Outcomes:
        client = Client("127.0.0.1", port, lambda _: b"{}")
        asking = asyncio.create_task(client.open(20, 1.0))
        for _ in range(3):
            await asyncio.sleep(0.01)
            time.sleep(0.3)  # answers arrive, and requests are due, while it is busy with something else
        seen = await asking
        client.close()
        return seen

    with Server(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen = asyncio.run(scenario(server.server_address[1]))
        server.shutdown()
    assert seen.status == [200] * 20
    assert max(seen.late_s) > 0.1
    assert np.median(seen.latency_s) < max(seen.late_s) / 2
    assert seen.channels_ms == [1.0] * 20


def test_a_server_that_hangs_up_while_nobody_asks_is_asked_anew() -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"HTTP/1.1 503 \r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def scenario() -> Outcomes:
        server = await asyncio.start_server(answers, "127.0.0.1", 0)
        client = Client("127.0.0.1", server.sockets[0].getsockname()[1], lambda _: b"{}")
        seen = await client.closed(2, 0.3)
        await asyncio.sleep(0.05)  # the last connections are lost while they are free
        client.close()
        server.close()
        return seen

    seen = asyncio.run(scenario())
    assert set(seen.status) == {503}
    assert len(seen.status) > 2


def test_names_are_unlike() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names) >= 20


def test_routes_are_listed_without_a_service() -> None:
    nobody = cast(Service, None)
    paths = {route.path for route in data_routes(nobody, Health(nobody))}
    assert {"/v1/recommend", "/v1/rank", "/v1/experiments"} <= paths
