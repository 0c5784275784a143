"""The gateway process: state, bundle and worker behind two listeners, from start to drained stop."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from genrecall.errors import ConfigError
from genrecall.serve import admin_client
from genrecall.serve.config import ServeConfig
from genrecall.serve.gateways.keeper import Keeper
from genrecall.serve.http.app import admin_app
from genrecall.serve.listeners import Listeners, drain, http_server, listen, reserve
from genrecall.serve.metrics import Metrics
from genrecall.serve.releases import Releases
from genrecall.serve.service import Service
from genrecall.serve.state.ingest import Ingest
from genrecall.serve.state.state import State, open_state
from genrecall.serve.tracing import Tracing
from genrecall.serve.worker import child

SWITCH_S = 0.0005
_LOCK = "lock"


@dataclass(frozen=True, kw_only=True)
class Running:
    """Told once the service answers."""

    url: str
    grpc_port: int | None
    admin: Path
    service: Service
    seeded_users: int


async def serve(
    bundle: Path,
    config: ServeConfig,
    *,
    seed: Callable[[State], int] = lambda _: 0,
    told: Callable[[Running], None] = lambda _: None,
) -> None:
    """Serve a bundle until SIGTERM or SIGINT, then drain.

    Args:
        bundle: directory.
        config: settings; of several gateways this process is the keeper, who starts them and answers nobody itself.
        seed: takes in histories first, and says of how many users.
        told: called when everything answers.
    """
    # Channels compute in threads: a request must not wait for a whole turn of the interpreter's lock.
    sys.setswitchinterval(SWITCH_S)
    claimed = claim(config.state)
    child.prepare(models=config.worker is not None)
    keeper = None if config.gateways == 1 else Keeper(config)
    config = config if keeper is None else keeper.config
    state = await asyncio.to_thread(open_state, config)
    seeded = await asyncio.to_thread(seed, state)
    metrics = Metrics()
    releases = Releases(config, state, metrics)
    service = Service(config, releases, state, Ingest(state), metrics)
    listener, admin_path = (listen if keeper is None else reserve)(config), config.state / admin_client.SOCKET
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listeners = None
    admin = http_server(admin_app(service))
    tasks = [asyncio.create_task(admin.serve(sockets=[_admin(admin_path)]))]
    try:
        if keeper is None:
            service.tracing = Tracing.from_environment()
            listeners = await Listeners.open(service, config, listener)
            starting = asyncio.create_task(_started(releases, bundle))
            tasks += listeners.tasks
        else:
            starting = asyncio.create_task(keeper.start(service, bundle, listener.getsockname()[1]))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((starting, stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            front = listeners or keeper
            assert front is not None
            told(
                Running(
                    url=_url(config, listener), grpc_port=front.grpc_port, admin=admin_path, service=service,
                    seeded_users=seeded,
                )
            )  # fmt: skip
            await asyncio.wait((stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
        else:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        if listeners is not None:
            await drain(listeners.gate, config.drain_s)
    finally:
        if keeper is not None:
            await keeper.close()
        if listeners is not None:
            await listeners.close()
        admin.should_exit = True
        await asyncio.gather(*tasks)
        await service.close()
        listener.close()
        admin_path.unlink(missing_ok=True)
        os.close(claimed)


async def _started(releases: Releases, bundle: Path) -> None:
    await releases.start(bundle)


def claim(state: Path) -> int:
    """Hold a state directory for this process, as long as the descriptor that is returned stays open.

    Raises:
        ConfigError: another process holds it.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            "another service uses this state",
            seen=str(state),
            allowed="one service a state directory: delisted items and the admin socket are its own",
            fix="stop the other one, or give another --state",
        ) from None
    return descriptor


def _url(config: ServeConfig, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'http' if config.tls is None else 'https'}://{shown}:{port}"


def _admin(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise ConfigError(
            "the admin socket cannot be made",
            seen=f"{path}: {error.strerror or error}",
            allowed="a path of at most 107 bytes on a file system with sockets",
            fix="give a shorter --state",
        ) from error
    finally:
        os.umask(before)
    return listener
