"""The gateway process: state, bundle and worker behind two listeners, from start to drained stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genrecall.errors import ConfigError, DependencyError
from genrecall.serve import admin_client
from genrecall.serve.config import ServeConfig
from genrecall.serve.http.app import admin_app, data_app
from genrecall.serve.http.gate import Gate
from genrecall.serve.http.tls import Certificate
from genrecall.serve.metrics import Metrics
from genrecall.serve.releases import Releases
from genrecall.serve.service import Service
from genrecall.serve.state.ingest import Ingest
from genrecall.serve.state.state import State, open_state
from genrecall.serve.tracing import Tracing
from genrecall.serve.worker import child
from genrecall.telemetry import log

if TYPE_CHECKING:
    import uvicorn

_SWITCH_S = 0.0005
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
        config: settings.
        seed: takes in histories first, and says of how many users.
        told: called when everything answers.
    """
    # Channels compute in threads: a request must not wait for a whole turn of the interpreter's lock.
    sys.setswitchinterval(_SWITCH_S)
    claimed = claim(config.state)
    child.prepare()
    state = await asyncio.to_thread(open_state, config)
    seeded = await asyncio.to_thread(seed, state)
    metrics = Metrics()
    releases = Releases(config, state, metrics)
    service = Service(config, releases, state, Ingest(state), metrics)
    service.tracing = Tracing.from_environment()
    listener, admin_path = listen(config), config.state / admin_client.SOCKET
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gate = data_app(service)
    certificate = None if config.tls is None else Certificate(*config.tls)
    servers = [(http_server(gate, certificate), listener), (http_server(admin_app(service)), _admin(admin_path))]
    watching = [asyncio.create_task(service.limiter.watch())]
    if certificate is not None:
        watching.append(asyncio.create_task(certificate.watch()))
    tasks = [asyncio.create_task(server.serve(sockets=[connection])) for server, connection in servers]
    grpc = None
    try:
        if config.grpc_port is not None:
            from genrecall.serve.grpc import server as grpc_server

            grpc = await grpc_server.start(service, gate, config, config.grpc_port)
        starting = asyncio.create_task(releases.start(bundle))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((starting, stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            scheme = "http" if certificate is None else "https"
            told(
                Running(
                    url=f"{scheme}://{shown}:{port}",
                    grpc_port=None if grpc is None else grpc.port,
                    admin=admin_path,
                    service=service,
                    seeded_users=seeded,
                )
            )
            await asyncio.wait((stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
        else:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        await drain(gate, config.drain_s)
    finally:
        if grpc is not None:
            await grpc.close(grace_s=1.0)
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)
        for watcher in watching:
            watcher.cancel()
        await service.ingest.close()
        service.arms.close()
        if service.tracing is not None:
            await asyncio.to_thread(service.tracing.close)
        await releases.close()
        state.close()
        admin_path.unlink(missing_ok=True)
        os.close(claimed)


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


async def drain(gate: Gate, drain_s: float) -> None:
    """Refuse what is new, finish what is on its way."""
    gate.draining = True
    until = time.monotonic() + drain_s
    if gate.inflight:
        log(f"draining: {gate.inflight} requests are on their way")
    while gate.inflight and time.monotonic() < until:
        await asyncio.sleep(0.02)
    if gate.inflight:
        log(f"{gate.inflight} requests were not finished within {drain_s:g} s")


def http_server(app: Gate, certificate: Certificate | None = None) -> uvicorn.Server:
    """A server of one application, that leaves signals to the process."""
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise DependencyError("uvicorn", extra="serve", purpose="the service") from error

    class Quiet(uvicorn.Server):
        """Signals are the gateway's to handle: two servers share the process."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    settings = uvicorn.Config(
        app, lifespan="off", ws="none", log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=30, timeout_graceful_shutdown=5,
    )  # fmt: skip
    settings.load()
    if certificate is not None:
        settings.ssl = certificate.context
    return Quiet(settings)


def listen(config: ServeConfig) -> socket.socket:
    """The data listener.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by connections. Head and body are two writes: without it the second waits 40 ms for the first's ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            "the service cannot listen there",
            seen=f"{config.host}:{config.port}: {error.strerror or error}",
            allowed="a free port of an address of this machine",
            fix="choose another --port (0 takes a free one), or stop what listens there",
        ) from error
    return listener


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
