"""A child's life: it answers on its socket, and ends by itself when its gateway has gone."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Mapping
from multiprocessing import connection as sentinels
from pathlib import Path

from genrecall.engine.worker.server import Handler, Server

_BEHIND = 5


def answer(directory: Path, handlers: Mapping[str, Handler]) -> None:
    """Answer until the gateway has gone.

    Args:
        directory: as ``Child.start`` gave it.
        handlers: by kind of request.
    """
    # On a full machine the gateway goes first: its refusals must not wait for a search's turn.
    alive(directory, nice=_BEHIND)
    asyncio.run(served(directory, handlers))


def alive(directory: Path, *, nice: int) -> None:
    """Live as long as the parent does, so much behind others."""
    os.nice(nice)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the gateway drains and then ends us
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
