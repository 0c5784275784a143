"""What rank 0 captures, the others capture: NCCL hangs where a sum is in a graph on one rank alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genrecall.engine import leading, setup
from genrecall.engine.config import Budgets, EngineConfig
from genrecall.engine.device import runner as device_runner
from genrecall.engine.device.graphs import Graphs
from genrecall.engine.device.runner import Runner
from genrecall.engine.engine import Engine
from genrecall.engine.following import Follower
from genrecall.engine.leading import LeadingRunner
from genrecall.engine.messages import Inbox
from genrecall.engine.worker.frames import Frame, encode
from tests.engine.models import make_model, sid_tokens
from tests.engine.replay import let_capture
from tests.engine.test_shipped import SPACE, ask, catalog, histories


class Wire:
    """A group of two ranks in two threads."""

    def __init__(self) -> None:
        self.group, self.lock, self.device = self, threading.RLock(), torch.device("cpu")
        read, self._pipe = os.pipe()
        self.follower = Follower(self, Inbox(os.fdopen(read, "rb", buffering=0)))  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self.follower.run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, message: bytes | memoryview) -> None:
        os.write(self._pipe, message)

    def end(self) -> None:
        self.tell(encode(Frame(head={"kind": "end"})))
        self._thread.join()
        os.close(self._pipe)


def recorded(runner: Runner) -> list[str]:
    """Let a runner keep graphs on a CPU; which way each of its functions went."""
    graphs, ways = let_capture(runner), []

    def run(key: Any, function: Callable[[], Any], *, after: int = 1) -> Any:
        eager, captured = graphs.eager, graphs.captured
        found = Graphs.run(graphs, key, function, after=after)
        ways.append("eager" if graphs.eager > eager else "captured" if graphs.captured > captured else "graph")
        return found

    graphs.run = run  # type: ignore[assignment, method-assign]
    return ways


@pytest.mark.parametrize("remembered", [1, 4096])
def test_all_ranks_capture_at_the_same_time(monkeypatch: pytest.MonkeyPatch, remembered: int) -> None:
    monkeypatch.setattr(leading, "_REMEMBERED", remembered)
    monkeypatch.setattr(device_runner, "LONG", 0)  # prompts are captured late, but while warming up
    wire, build = Wire(), setup.build

    def both(*arguments: Any, **named: Any) -> setup.Built:
        wire.follower._runners.append(build(*arguments, **named).runner)
        return build(*arguments, **named, make=partial(LeadingRunner, leader=wire, number=0))

    monkeypatch.setattr(setup, "build", both)
    budgets = Budgets(page_tokens=8, requests=5, filters=2, kv_tokens=600)
    config = EngineConfig(device="cpu", dtype="float32", forced="run", budgets=budgets, max_rows=70)
    engine = Engine(make_model(), catalog(0), sid_tokens(SPACE.codes), config)
    follower = wire.follower._runners[0]
    assert follower is not None
    ours, theirs = recorded(engine.loop.runner), recorded(follower)
    wire.start()
    try:
        requests = ask(histories(1), catalog(0), users=False, filters=False)[:3]
        engine.warm_up(requests, batches=(3,))
        engine.generate(requests)
        answers = engine.generate(requests)
        engine.score(requests, [answer.sids for answer in answers])
        with torch.inference_mode():
            engine.loop.runner.wipe()
    finally:
        wire.end()
    assert ours == theirs
    assert "captured" in ours
    assert not follower._batches.flat.any(), "what was told holds prompts, too"
    assert not wire.follower._last, "results are let go of, too"


class Ended(Exception):
    """Instead of the end of this process."""


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("full"), RuntimeError("closed by peer\nmore"), IndexError("packing"), KeyboardInterrupt()],
)
def test_what_rank_0_tells_and_does_not_do_ends_all(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The others wait for a batch that never comes, or in sums, or hold what it does not; nothing may be asked of the
    group after that.
    """

    def lose(why: str) -> None:
        raise Ended(why)

    def fail(*_: object) -> None:
        raise error

    runner = LeadingRunner.__new__(LeadingRunner)
    runner.leader = SimpleNamespace(group=SimpleNamespace(lock=threading.RLock()), lose=lose)  # type: ignore[assignment]
    for name in ("search_packed", "move"):
        monkeypatch.setattr(Runner, name, fail)
    for name in ("_announce", "tell"):
        monkeypatch.setattr(LeadingRunner, name, lambda *_: None)
    batch = SimpleNamespace(shape=None)
    for do in (lambda: runner.search_packed(batch, None, None), lambda: runner.move([])):  # type: ignore[arg-type]
        with pytest.raises(Ended, match=f"^{(str(error) or 'KeyboardInterrupt').splitlines()[0]}$"):
            do()
