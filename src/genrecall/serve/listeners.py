"""What clients reach of one process: HTTP, perhaps gRPC, behind one gate."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from genrecall.errors import ConfigError, DependencyError
from genrecall.serve.config import ServeConfig
from genrecall.serve.http.app import data_app
from genrecall.serve.http.gate import Gate
from genrecall.serve.http.health import Health
from genrecall.serve.http.tls import Certificate
from genrecall.serve.service import Service
from genrecall.telemetry import log

if TYPE_CHECKING:
    import uvicorn

    from genrecall.serve.grpc.server import GrpcServer

_GRACE_S = 1.0


class Listeners:
    """Open while this object is; made by ``open``.

    Attributes:
        health: of this process.
        gate: that all requests pass.
        tasks: end only with a failure, or after ``close``.
        grpc_port: None where nobody speaks gRPC.
    """

    def __init__(self, service: Service, config: ServeConfig, listener: socket.socket) -> None:
        certificate = None if config.tls is None else Certificate(*config.tls)
        self.health = Health(service)
        self.gate = data_app(service, self.health)
        self._server = http_server(self.gate, certificate)
        self.tasks = [asyncio.create_task(self._server.serve(sockets=[listener]))]
        self._watching = [asyncio.create_task(service.limiter.watch())]
        if certificate is not None:
            self._watching.append(asyncio.create_task(certificate.watch()))
        self._grpc: GrpcServer | None = None

    @classmethod
    async def open(cls, service: Service, config: ServeConfig, listener: socket.socket) -> Listeners:
        """Listen.

        Raises:
            ConfigError, DependencyError: the gRPC listener cannot.
        """
        found = cls(service, config, listener)
        if config.grpc_port is not None:
            from genrecall.serve.grpc import server as grpc_server

            try:
                found._grpc = await grpc_server.start(service, found.gate, config, config.grpc_port)
            except (ConfigError, DependencyError):
                await found.close()
                raise
        return found

    @property
    def grpc_port(self) -> int | None:
        """That it listens on."""
        return None if self._grpc is None else self._grpc.port

    async def close(self) -> None:
        """Hang up."""
        if self._grpc is not None:
            await self._grpc.close(grace_s=_GRACE_S)
        self._server.should_exit = True
        await asyncio.gather(*self.tasks)
        for watcher in self._watching:
            watcher.cancel()


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

    from genrecall.serve.http.protocol import GatedProtocol

    class Quiet(uvicorn.Server):
        """Signals are the gateway's to handle: two servers share the process."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    settings = uvicorn.Config(
        app, http=GatedProtocol, lifespan="off", ws="none", log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=30, timeout_graceful_shutdown=5,
    )  # fmt: skip
    settings.load()
    if certificate is not None:
        settings.ssl = certificate.context
    return Quiet(settings)


def listen(config: ServeConfig, port: int | None = None, *, shared: bool = False) -> socket.socket:
    """A socket that is bound to the data address.

    Args:
        config: holds the address.
        port: instead of the data listener's.
        shared: other processes of this user may bind to it, too; the kernel divides connections among who listens.

    Raises:
        ConfigError: the address cannot be had.
    """
    port = config.port if port is None else port
    try:
        family, *_, address = socket.getaddrinfo(config.host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Inherited by connections. Head and body are two writes: without it the second waits 40 ms for the first's ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            "the service cannot listen there",
            seen=f"{config.host}:{port}: {error.strerror or error}",
            allowed="a free port of an address of this machine",
            fix="choose another --port (0 takes a free one), or stop what listens there",
        ) from error
    return listener


def reserve(config: ServeConfig, port: int | None = None) -> socket.socket:
    """``listen``, shared, after a look that nobody else has the address: two services must not share one unawares."""
    alone = listen(config, port)
    found = int(alone.getsockname()[1])
    alone.close()
    return listen(config, found, shared=True)
