"""A process of ours that answers on a socket: forked from one that has everything imported.

The standard library's fork server imports ``preload`` once; a child is then there in the time of a fork, however many
died before it, and shares the imports' memory. ``life`` is the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

from genrecall.engine.worker.connection import Connection
from genrecall.engine.worker.record import Record

_PRELOAD = {True: "genrecall.serve.worker.preload_models", False: "genrecall.serve.worker.preload"}
_LOOK_S, _GRACE_S = 0.01, 5.0
_prepared = False


def prepare(*, models: bool = True) -> None:
    """Let the imports begin; children that are started later wait for what is left of them.

    Args:
        models: whether children will run models: torch takes longer to import than all else together. Others can be
            started all the same, and import for themselves what is not there.
    """
    global _prepared
    multiprocessing.set_forkserver_preload([_PRELOAD[models]])
    _prepared = True
    forkserver.ensure_running()


class Child:
    """A running child and the connection to it; ``process`` is None where another process of ours started it."""

    def __init__(self, process: BaseProcess | None, directory: Path, record: Record, connection: Connection) -> None:
        self.process, self.record, self.connection = process, record, connection
        self.directory = directory

    @classmethod
    async def start(cls, main: Callable[..., None], *arguments: object) -> Child:
        """Fork, and wait until it listens.

        Args:
            main: of a module; called with the directory of record and socket, then the arguments.
            arguments: texts and settings.

        Raises:
            ChildProcessError: it ended before it listened.
        """
        context = multiprocessing.get_context("forkserver")
        await asyncio.to_thread(forkserver.ensure_running if _prepared else prepare)
        directory = Path(tempfile.mkdtemp(prefix="genrecall-"))
        record = Record(directory / "record")
        process = context.Process(target=main, args=(str(directory), *arguments), daemon=True)
        try:
            await asyncio.to_thread(process.start)
            while True:
                try:
                    return cls(process, directory, record, await Connection.open(directory / "socket"))
                except (FileNotFoundError, ConnectionRefusedError):
                    if process.exitcode is not None:
                        raise ChildProcessError(f"it ended with {process.exitcode}; see above") from None
                await asyncio.sleep(_LOOK_S)
        except BaseException:
            if process.pid is not None:
                process.kill()
            shutil.rmtree(directory, ignore_errors=True)
            raise

    @classmethod
    async def join(cls, place: Path) -> Child:
        """Wait until a child is published at ``place``, and connect to it."""
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):  # none yet, or not any more
                directory = place.resolve(strict=True)
                record = Record(directory / "record")
                return cls(None, directory, record, await Connection.open(directory / "socket"))
            await asyncio.sleep(_LOOK_S)

    def publish(self, place: Path) -> None:
        """Let others find it there, instead of the one before."""
        link = place.with_name(f"{place.name}.new")
        link.unlink(missing_ok=True)
        link.symlink_to(self.directory)
        link.replace(place)

    async def end(self) -> None:
        """Kill it, if it is ours and still there, and sweep up."""
        self.connection.close()
        if self.process is None:
            return
        self.process.kill()
        await asyncio.to_thread(self.process.join, _GRACE_S)
        shutil.rmtree(self.directory, ignore_errors=True)
