"""A child's life: it answers on its socket, and ends by itself when its gateway has gone."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Mapping
from multiprocessing import connection as sentinels
from pathlib import Path

from genrecall.engine.worker.server import Handler, Server
from genrecall.serve.event_loop import event_loop

_BEHIND = 5


def answer(directory: Path, handlers: Mapping[str, Handler]) -> None:
    """Answer until the gateway has gone.

    Args:
        directory: as ``Child.start`` gave it.
        handlers: by kind of request.
    """
    alive(directory, nice=_BEHIND)
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        runner.run(served(directory, handlers))


def step_back(nice: int) -> None:
    """Let others go first from now on: once a bundle is open, which should take no longer than it must.

    On a full machine the gateway goes first, for its refusals must not wait for a channel's turn; then the channels
    that answer quickly; and the engine last, for its searches are what is left out when there is too much to do.
    """
    threads = Path("/proc/self/task")  # of Linux, where each has a niceness of its own
    for thread in threads.iterdir() if threads.is_dir() else [Path("0")]:
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)


def alive(directory: Path, *, nice: int) -> None:
    """Live as long as the parent does, so much behind others."""
    os.nice(nice)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group: the gateway drains and then ends us
    threading.Thread(target=_end_with_parent, args=(directory,), daemon=True).start()


async def served(directory: Path, handlers: Mapping[str, Handler]) -> None:
    """Answer on the socket."""
    await Server(handlers, directory / "socket").run()


def _end_with_parent(directory: Path) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a child was forked"
    sentinels.wait([parent.sentinel])
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)
