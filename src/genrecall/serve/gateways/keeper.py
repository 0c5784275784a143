"""The keeper: starts several gateways and all that they share, keeps them alive, and answers no client itself.

    keeper ──starts, watches──▶ engine workers, classic channels, gateways 0 … N−1
    gateways ──Unix sockets──▶ the same workers;  ──LMDB or Redis──▶ the same users;  ◀──layout── keeper

What is in service is one document (``layout``): after a change every gateway brings itself to it, and the change is
acknowledged when all have. A gateway that does not within ``_FOLLOW_S`` is ended; the next one begins with the layout
as it is then. Clients' connections are divided by the kernel (``SO_REUSEPORT``).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from genrecall.engine.worker.connection import WorkerDied
from genrecall.engine.worker.frames import Frame
from genrecall.engine.worker.server import Server
from genrecall.errors import GenrecallError
from genrecall.serve.config import ServeConfig
from genrecall.serve.gateways.fellows import frame_of, tell
from genrecall.serve.http.health import Health
from genrecall.serve.listeners import reserve
from genrecall.serve.service import Service
from genrecall.serve.shared import HUB, Seat, forget
from genrecall.serve.worker import messages
from genrecall.serve.worker.child import Child
from genrecall.serve.worker.supervisor import Supervisor
from genrecall.telemetry import log

_START_S, _FOLLOW_S, _TELL_S, _STOP_S = 600.0, 60.0, 2.0, 10.0


class Keeper:
    """The gateways of one service.

    Args:
        config: of the service.

    Attributes:
        config: with the keeper's seat.
        grpc_port: that all of them listen on.
    """

    def __init__(self, config: ServeConfig) -> None:
        directory = Path(tempfile.mkdtemp(prefix="genrecall-"))
        seat = Seat(directory=directory, number=config.gateways, gateways=config.gateways)
        self.config = replace(config, seat=seat)
        self._directory, self._gateways = directory, list[Supervisor]()
        self._begun = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._grpc: socket.socket | None = None
        self._service: Service | None = None

    @property
    def grpc_port(self) -> int | None:
        """None where nobody speaks gRPC."""
        return None if self._grpc is None else int(self._grpc.getsockname()[1])

    async def start(self, service: Service, bundle: Path, port: int) -> None:
        """Open the bundle and start all gateways; returns when they answer.

        Args:
            service: the keeper's own, over the same releases and the same state.
            bundle: directory.
            port: bound by the keeper, who does not listen there: it is held also while gateways come and go.

        Raises:
            GenrecallError, LaneFailedError: the bundle cannot be served, or a gateway does not start.
        """
        self._service, config = service, self.config
        service.fellows = self._others
        if config.grpc_port is not None:
            self._grpc = reserve(config, config.grpc_port)
        handlers = {"layout": self._layout, "relay": self._relay}
        self._serving = asyncio.create_task(Server(handlers, self._directory / HUB).run())
        starting = [asyncio.create_task(self._gateway(number, port)) for number in range(config.gateways)]
        try:
            await service.releases.start(bundle)
            service.releases.changed = self._publish
            self._begun.set()
            await asyncio.gather(*starting)
        finally:
            for task in starting:
                task.cancel()

    async def close(self) -> None:
        """Let all gateways drain, and end them."""
        await asyncio.gather(*(self._stopped(gateway) for gateway in self._gateways))
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        if self._grpc is not None:
            self._grpc.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _gateway(self, number: int, port: int) -> None:
        config, seat = self.config, self.config.seat
        assert seat is not None
        own = replace(
            config, seat=replace(seat, number=number), port=port, grpc_port=self.grpc_port,
            max_inflight=-(-config.max_inflight // config.gateways),
        )  # fmt: skip
        gateway = Supervisor(
            f"gateway {number}", lambda: Child.start(messages.gateway, own), lambda _: None, _START_S,
            ended=lambda: forget(seat, number),
        )  # fmt: skip
        self._gateways.append(gateway)
        assert self._service is not None
        self._service.gateways[str(number)] = gateway
        await gateway.start()

    async def _stopped(self, gateway: Supervisor) -> None:
        child = gateway.child
        if child is not None:
            with contextlib.suppress(WorkerDied, GenrecallError, TimeoutError):
                async with asyncio.timeout(self.config.drain_s + _STOP_S):
                    await child.connection.ask("drain", {})
        await gateway.close()

    async def _publish(self) -> None:
        """Tell all gateways what is in service now; returns when every one serves it, or was ended."""
        assert self._service is not None
        layout = msgspec.to_builtins(self._service.releases.layout())
        await asyncio.gather(*(self._told(gateway, layout) for gateway in self._gateways))

    async def _told(self, gateway: Supervisor, layout: Mapping[str, Any]) -> None:
        child = gateway.begun
        if child is None:
            return  # the next one asks for it
        try:
            async with asyncio.timeout(_FOLLOW_S):
                await child.connection.ask("follow", {"layout": layout})
        except (WorkerDied, GenrecallError, TimeoutError) as error:
            log(f"a gateway did not follow and is ended: {type(error).__name__}: {error}")
            if child.process is not None:
                child.process.kill()

    async def _layout(self, frame: Frame) -> Frame:
        await self._begun.wait()
        assert self._service is not None
        return Frame(head={"kind": "layout", "layout": msgspec.to_builtins(self._service.releases.layout())})

    async def _relay(self, frame: Frame) -> Frame:
        kind, head, service = frame.head["ask"], frame.head["head"], self._service
        assert service is not None
        found = await self._others(kind, head, but=frame.head["of"])
        return frame_of({**found, "keeper": tell(service, Health(service).measured, kind, head)})

    async def _others(self, kind: str, head: Mapping[str, Any], but: str = "") -> dict[str, bytes]:
        """What the gateways tell that are there and answer in time."""
        asked = {str(number): gateway.child for number, gateway in enumerate(self._gateways)}

        async def ask(child: Child) -> bytes | None:
            with contextlib.suppress(WorkerDied, GenrecallError, TimeoutError):
                async with asyncio.timeout(_TELL_S):
                    return (await child.connection.ask(kind, head)).arrays["told"].tobytes()
            return None

        names = [name for name, child in asked.items() if child is not None and name != but]
        told = await asyncio.gather(*(ask(child) for name in names if (child := asked[name]) is not None))
        return {name: part for name, part in zip(names, told, strict=True) if part is not None}
