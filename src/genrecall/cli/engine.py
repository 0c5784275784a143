"""`genrecall engine serve`: the engine of a bundle by itself, for graphs of other processes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import Device

app = typer.Typer(help="The engine by itself.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The engine by itself."""


@app.command()
def serve(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    socket: Annotated[Path, typer.Option("--socket", help="Unix socket to make; for this user alone.")],
    device: Device = "auto",
) -> None:
    """Answer prompts with SIDs over a Unix socket until Ctrl-C or SIGTERM.

    Example: genrecall engine serve runs/quickstart/bundle --socket /tmp/engine.sock
    """
    from genrecall.bundle.engine import open_engine
    from genrecall.engine.asynchronous import AsyncEngine

    _require_path(socket)
    opened, digest = open_engine(bundle, device=device)
    engine = AsyncEngine(opened)
    try:
        asyncio.run(_serve(engine, socket, digest, f"{opened.device}, {opened.trie.num_items:,} items"))
    finally:
        engine.close()


async def _serve(engine: object, socket: Path, digest: str, told: str) -> None:
    from genrecall.engine.asynchronous import AsyncEngine
    from genrecall.engine.worker.server import Server, handlers_of

    assert isinstance(engine, AsyncEngine)
    serving = asyncio.create_task(
        Server(handlers_of(engine), socket, digest).run(
            lambda: print(f"ready: {socket}  {digest[:19]}…  {told}", flush=True)
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        socket.unlink(missing_ok=True)


def _require_path(socket: Path) -> None:
    from genrecall.errors import ConfigError

    if len(bytes(socket)) > 100 or not socket.parent.is_dir() or (socket.exists() and not socket.is_socket()):
        raise ConfigError(
            "no socket can be made there",
            seen=str(socket),
            allowed="a path of at most 100 bytes in a directory that exists, where nothing but a socket lies",
            fix="for example --socket /tmp/engine.sock",
        )
