"""The engine's socket: whoever stops it does not wait for clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

from genrecall.engine.worker.server import Server


def test_a_stop_ends_the_connections(tmp_path: Path) -> None:
    async def stopped() -> bytes:
        ready = asyncio.Event()
        running = asyncio.create_task(Server({}, tmp_path / "socket").run(ready.set))
        await ready.wait()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
        await asyncio.sleep(0.05)  # until the server has taken it
        running.cancel()
        await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 20)
        rest = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return rest

    assert asyncio.run(stopped()) == b""
