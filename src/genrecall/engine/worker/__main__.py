"""The worker process: ``python -m genrecall.engine.worker SOCKET package.module:function '{"argument": …}'``."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
from pathlib import Path

from genrecall.engine.asynchronous import AsyncEngine
from genrecall.engine.worker.server import Server, handlers_of
from genrecall.hardware import spare_workspace


async def _main(socket: Path, factory: str, arguments: str) -> None:
    module, _, function = factory.partition(":")
    engine = AsyncEngine(getattr(importlib.import_module(module), function)(**json.loads(arguments)))
    serving = asyncio.create_task(Server(handlers_of(engine), socket).run(lambda: print("ready", flush=True)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    watching = asyncio.create_task(_watch(os.getppid(), serving))
    try:
        await serving
    except asyncio.CancelledError:
        pass
    finally:
        watching.cancel()
        engine.close()
        socket.unlink(missing_ok=True)


async def _watch(parent: int, serving: asyncio.Task[None]) -> None:
    """A worker whose starter is gone ends, too."""
    while os.getppid() == parent:
        await asyncio.sleep(1.0)
    serving.cancel()


if __name__ == "__main__":
    spare_workspace()
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
