"""The engine on a thread, and in a process that may die: nobody waits forever, nobody is hit by another's end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import struct
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.engine.asynchronous import AsyncEngine
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Refused, Request
from genrecall.engine.worker.client import Client, WorkerDied
from genrecall.engine.worker.connection import Connection
from genrecall.engine.worker.frames import Frame, decode, encode, read
from genrecall.engine.worker.record import Record
from genrecall.engine.worker.server import Server
from genrecall.errors import ConfigError, DataError, GenrecallError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from tests.engine.models import make_model, sid_tokens

SPACE = SidSpace((6, 6, 6))


def open_engine(items: int = 40) -> Engine:
    sids = np.random.default_rng(3).integers(0, 6, size=(items, 3)).astype(np.int32)
    return Engine(make_model(), Trie.build(SPACE, sids), sid_tokens(SPACE.codes), EngineConfig(device="cpu"))


def requests(count: int) -> list[Request]:
    rng = np.random.default_rng(0)
    mask = rng.random(40) < 0.7
    return [
        Request(
            tokens=tuple(rng.integers(0, 20, 4).tolist()),
            beam=(2, 9, 4) if place % 2 else 6,
            allowed=mask if place % 3 == 0 else None,
            user=f"user {place}" if place % 5 == 0 else None,
        )
        for place in range(count)
    ]


def test_many_at_once_are_answered_as_together():
    asked = requests(20)
    expected = open_engine().generate(asked)
    engine = AsyncEngine(open_engine())

    async def run():
        answers = await asyncio.gather(*map(engine.generate, asked))
        with pytest.raises(ConfigError, match="empty prompt"):
            await engine.generate(Request(tokens=()))
        scores = await engine.score(asked[0], [*answers[0].sids, (5, 5, 5)])
        await engine.purge("user 0")
        return answers, scores

    answers, scores = asyncio.run(run())
    engine.close()
    for ours, theirs in zip(answers, expected, strict=True):
        assert ours.sids == theirs.sids
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
    assert scores[:-1].tolist() == pytest.approx(answers[0].scores, abs=1e-4)
    assert "user 0" not in engine.engine.loop.scheduler.cache.users()
    with pytest.raises(RuntimeError, match="ended"):
        asyncio.run(engine.generate(asked[0]))


def test_a_cancelled_task_gives_its_request_up():
    engine = AsyncEngine(open_engine())

    async def run():
        tasks = [asyncio.create_task(engine.generate(one)) for one in requests(8)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(run())
    engine.close()
    assert isinstance(outcomes[3], asyncio.CancelledError)
    assert all(hasattr(outcome, "sids") for place, outcome in enumerate(outcomes) if place != 3)
    assert engine.engine.loop.idle


def test_cancelling_and_deadlines_free_rows_before_the_next_step():
    """The decoder's steps are counted by rows: what was given up after one level takes no part in the next."""
    engine, steps, outcomes = open_engine(200), [], {}
    step = engine.loop.runner.decoder.step
    engine.loop.runner.decoder.step = lambda codes, beams: (
        steps.append(int(beams.ranges.count.sum())) or step(codes, beams)
    )  # type: ignore[method-assign]
    asked = [Request(tokens=(1, 2, 3), beam=6, tag=place) for place in range(4)]
    numbers = [engine.submit(one, partial(outcomes.__setitem__, place)) for place, one in enumerate(asked)]
    seen = []

    def meanwhile():
        seen.append((engine.loop.scheduler.rows()[0], sorted(engine.loop.tags)))
        if len(seen) == 2:  # before the second step: the first had all four
            assert engine.cancel(numbers[1])
            engine.loop.scheduler._due[numbers[3]] = engine.loop.scheduler.clock() - 1e-3

    engine.loop.meanwhile = meanwhile
    while len(outcomes) < 4:
        engine.advance()
    alone = engine.generate([asked[0]])[0]
    assert [outcomes[1], outcomes[3]] == [Refused(reason="cancelled"), Refused(reason="late")]
    assert outcomes[0].sids == outcomes[2].sids == alone.sids
    assert seen[:2] == [(24, [0, 1, 2, 3])] * 2
    assert engine.loop.scheduler.rows() == (0, 0)
    assert steps[0] == 4 * steps[2] > 0
    assert steps[1] == 2 * steps[3] > 0
    assert engine.loop.idle


def test_a_record_outlives_its_writer(tmp_path):
    record, reader = Record(tmp_path / "record"), Record(tmp_path / "record")
    assert reader.silence_s > 1e-3
    engine = AsyncEngine(open_engine(), observer=record)
    asyncio.run(engine.generate(Request(tokens=(1, 2), beam=6, tag=7)))
    engine.close()
    assert reader.batches == 1
    assert reader.last[0] == 6
    assert reader.rows == (0, 0)
    assert not reader.tags
    record.moved([7, 9], (12, 30))
    assert (reader.tags, reader.rows) == ({7, 9}, (12, 30))
    assert reader.silence_s < 60


def test_a_record_tells_what_waits_no_more(tmp_path):
    """Of tagged requests: what runs, with the beams that were asked for, then what was answered and has not left."""
    record, seen = Record(tmp_path / "record"), []
    engine = AsyncEngine(open_engine(200), observer=record)
    loop, take = engine.engine.loop, engine.engine.loop.meanwhile
    loop.meanwhile = lambda: (take(), seen.append(record.begun))
    wide = [Request(tokens=(1, 2), beam=500, tag=7), Request(tokens=(3,), beam=(2, 7, 4), tag=8)]

    async def reply(one):
        with engine.begun.replying(one.tag):
            await engine.generate(one)
            return record.begun

    async def together():
        return await asyncio.gather(*map(reply, wide), engine.generate(Request(tokens=(9,), beam=30)))

    first, second, _ = asyncio.run(together())
    assert first in {500, 507}, "in two batches where the engine was quicker than the asking"
    assert second in {7, 507}
    assert set(seen) <= {500, 7, 507, 0}, "what has no tag is nobody's"
    assert record.begun == 0

    async def give_up():
        asking = asyncio.create_task(reply(wide[0]))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await reply(wide[1])

    asyncio.run(give_up())
    engine.close()
    assert record.begun == 0, "nor does what was given up stay"


def test_what_is_given_up_while_it_runs_has_begun_no_more(tmp_path):
    """At once, though a graph of all levels runs on: until when the device is busy is told apart."""
    record, runs, on = Record(tmp_path / "record"), threading.Event(), threading.Event()
    engine = AsyncEngine(open_engine(), observer=record)
    engine.engine.loop.meanwhile = lambda: (runs.set(), on.wait(20))  # as a graph, which takes nothing in

    async def reply(tag):
        with engine.begun.replying(tag):
            return await engine.generate(Request(tokens=(1, 2, 3), beam=6, tag=tag))

    async def leave():
        first = asyncio.create_task(reply(7))
        await asyncio.to_thread(runs.wait, 20)
        second = asyncio.create_task(reply(8))
        await asyncio.sleep(0)
        before = record.begun
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        during = record.begun, record.rows
        on.set()
        return before, during, await second

    before, (begun, rows), answer = asyncio.run(leave())
    engine.close()
    assert (before, begun, rows) == (6, 0, (6, 0))
    assert len(answer.sids) == 6
    assert (record.begun, record.rows) == (0, (0, 0))


def test_errors_of_forecasts_do_not_add_up(tmp_path):
    """Batches take half of what is thought: the device is still never said to be busy for longer than one of them."""
    record, told = Record(tmp_path / "record"), []
    engine = AsyncEngine(open_engine(), observer=record)
    cost, loop = engine.engine.loop.scheduler.cost, engine.engine.loop
    cost.seconds = lambda load: 0.5  # type: ignore[method-assign]
    loop.launched = lambda requests: told.append(loop.busy_s)

    async def ask():
        async def one():
            for _ in range(10):
                await engine.generate(Request(tokens=(1, 2, 3), beam=6))

        await asyncio.gather(*(one() for _ in range(8)))

    asyncio.run(ask())
    until = time.monotonic() + 20
    while record.busy_s and time.monotonic() < until:
        time.sleep(1e-3)
    assert len(told) >= 10
    assert max(told) <= 0.5
    assert record.busy_s == 0.0
    engine.close()


def test_whoever_asks_for_nonsense_is_told(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    engine = AsyncEngine(open_engine())

    async def ask():
        return await asyncio.wait_for(engine.generate(Request(tokens=(1,), beam="wide")), timeout=20)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(ask())
    engine._thread.join()


def test_a_handler_that_fails_fails_its_own_request_alone(tmp_path, capsys):
    async def echo(frame):
        if frame.head["n"] == 1:
            raise ValueError("boom")
        await asyncio.sleep(0 if frame.head["n"] else 60)
        return Frame(head={"kind": "done", "n": frame.head["n"]})

    async def run():
        serving = asyncio.create_task(Server({"echo": echo}, tmp_path / "s").run())
        while not (tmp_path / "s").exists():
            await asyncio.sleep(0.01)
        connection = await Connection.open(tmp_path / "s")
        waiting = asyncio.create_task(connection.ask("echo", {"n": 0}))
        asked = [connection.ask("echo", {"n": 1}), connection.ask("echo", {"n": 2}), connection.ask("none", {})]
        found = await asyncio.gather(*asked, return_exceptions=True)
        serving.cancel()
        connection.close()
        with pytest.raises(WorkerDied):
            await waiting
        return found

    failed, done, unknown = asyncio.run(run())
    assert isinstance(failed, GenrecallError)
    assert done.head["n"] == 2
    assert isinstance(unknown, GenrecallError)
    assert "boom" in capsys.readouterr().err


def test_a_client_that_dies_with_replies_unread_is_no_fault_of_the_server(tmp_path):
    """A socket whose other side closes over unread bytes is reset."""
    uvloop = pytest.importorskip("uvloop")  # the service's loop: its closed sockets refuse to be written to

    async def pong(frame):
        return Frame(head={"kind": "pong"})

    async def run():
        faults = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: faults.append(told))
        server = Server({"ping": pong}, tmp_path / "s")
        serving = asyncio.create_task(server.run())
        while not (tmp_path / "s").exists():
            await asyncio.sleep(0.01)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            client.sendall(encode(Frame(head={"kind": "ping", "id": 0})))
            await asyncio.to_thread(client.recv, 1, socket.MSG_PEEK)
        while server._connections:
            await asyncio.sleep(0.01)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        gc.collect()  # what a task raised is told when it goes
        return faults

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == []


def test_an_engine_that_breaks_tells_everybody(monkeypatch):
    raised: list = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    engine = AsyncEngine(open_engine())
    engine.engine.loop.runner.launch = None  # type: ignore[assignment]

    async def run():
        return await asyncio.wait_for(
            asyncio.gather(*map(engine.generate, requests(3)), return_exceptions=True), timeout=20
        )

    outcomes = asyncio.run(run())
    engine._thread.join()
    assert [args.exc_type for args in raised] == [TypeError], "the reason is not hidden"
    # Whoever came before it ended is told why, whoever comes later that it has.
    assert isinstance(outcomes[0], GenrecallError)
    assert all(isinstance(outcome, GenrecallError | RuntimeError) for outcome in outcomes)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(tmp_path):
    asked = requests(6)
    expected = open_engine().generate(asked)
    client = Client("tests.engine.test_asynchronous:open_engine", {"items": 40}, tmp_path / "engine.sock")

    async def run():
        answers = await asyncio.gather(*map(client.generate, asked))
        for ours, theirs in zip(answers, expected, strict=True):
            assert ours.sids == theirs.sids
            assert (ours.short, ours.scores) == (theirs.short, pytest.approx(theirs.scores, abs=1e-5))
        with pytest.raises(ConfigError, match="beam width"):
            await client.generate(Request(tokens=(1,), beam=0))
        stated = (await client.generate(replace(asked[0], state=True))).state
        assert stated.tolist() == pytest.approx(
            open_engine().generate([replace(asked[0], state=True)])[0].state.tolist()
        )
        assert answers[0].state is None
        scores = await client.score(asked[1], answers[1].sids)
        assert scores.tolist() == pytest.approx(answers[1].scores, abs=1e-4)

        # A stranger that speaks no frames is shown the door; the worker goes on.
        _, stranger = await asyncio.open_unix_connection(tmp_path / "engine.sock")
        stranger.write(struct.pack("<II", 2**32 - 1, 3))
        assert await client.ping() == 0

        os.kill(client.pid, signal.SIGSTOP)
        hanging = [asyncio.create_task(client.generate(one)) for one in asked]
        await asyncio.sleep(0.05)
        os.kill(client.pid, signal.SIGKILL)
        outcomes = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(outcome, WorkerDied) for outcome in outcomes)
        assert (await client.generate(asked[0])).sids == expected[0].sids
        assert client.starts == 2
        await client.close()

    asyncio.run(run())


def test_a_worker_that_cannot_open_its_engine_says_so(tmp_path):
    client = Client("no.such.module:open", {}, tmp_path / "engine.sock")
    with pytest.raises(ConfigError, match="did not start"):
        asyncio.run(client.ping())


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=80))
def test_bytes_that_are_no_frame_are_refused(noise):
    async def run():
        reader = asyncio.StreamReader()
        reader.feed_data(noise)
        reader.feed_eof()
        return await read(reader)

    if noise:
        with pytest.raises(DataError):
            asyncio.run(run())
    else:
        assert asyncio.run(run()) is None


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.text(max_size=5).filter(lambda key: key != "arrays"), st.integers() | st.text(), max_size=4),
    st.lists(
        st.tuples(st.sampled_from(["int32", "float32", "uint8"]), st.lists(st.integers(0, 3), max_size=3)), max_size=4
    ),
    st.integers(0, 400),
)
def test_frames_come_back_as_they_were_and_never_half(head, arrays, cut):
    made = {str(place): np.ones(shape, kind) * place for place, (kind, shape) in enumerate(arrays)}
    made = {name: array.astype(kind) for (name, array), (kind, _) in zip(made.items(), arrays, strict=True)}
    sent = encode(Frame(head=head, arrays=made))
    total, size = struct.unpack("<II", sent[:8])
    assert len(sent) == 4 + total
    found = decode(sent[8:], size)
    assert found.head == head
    for name, array in made.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)
    if 0 < cut < len(sent) - 8:
        with pytest.raises(DataError):
            decode(sent[8:-cut], size)
