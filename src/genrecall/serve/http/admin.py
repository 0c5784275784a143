"""What changes the service: bundles and availability. On a socket that only its owner can open."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall.serve.http.api import json_response
from genrecall.serve.http.body import decoded, raw
from genrecall.serve.schema import Id
from genrecall.serve.service import Service

T = TypeVar("T")


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle on this machine."""

    bundle: Annotated[str, Meta(min_length=1, max_length=4096)]


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Share of the users."""

    percent: Annotated[float, Meta(ge=0, le=100)]


class Delist(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items to take out, or to take back in."""

    item_ids: Annotated[list[Id], Meta(min_length=1, max_length=100_000)]
    delisted: bool = True


class ApplyDelta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A delta of the ranker's tables on this machine."""

    delta: Annotated[str, Meta(min_length=1, max_length=4096)]


class Admin:
    """Handlers over one service; every one answers the digest that is active then."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/admin/releases", self.status, methods=["GET"]),
            Route("/admin/releases/stage", self.stage, methods=["POST"]),
            Route("/admin/releases/canary", self.canary, methods=["POST"]),
            Route("/admin/releases/activate", self.activate, methods=["POST"]),
            Route("/admin/releases/rollback", self.rollback, methods=["POST"]),
            Route("/admin/items/delist", self.delist, methods=["POST"]),
            Route("/admin/ranker/delta", self.delta, methods=["POST"]),
        ]

    async def status(self, request: Request) -> Response:
        """What is in which role, and how each answered in the last minute."""
        traffic = await asyncio.to_thread((await self._service.all_traffic()).by_release)
        gateways = {
            name: {"state": gateway.state, "pid": gateway.pid, "restarts": gateway.restarts}
            for name, gateway in self._service.gateways.items()
        }
        return json_response({**self._service.releases.status(), "gateways": gateways, "traffic": traffic})

    async def stage(self, request: Request) -> Response:
        """Open, check and warm a bundle beside the active one."""
        asked = await self._read(request, Stage)
        await self._service.releases.stage(Path(asked.bundle))
        return await self.status(request)

    async def canary(self, request: Request) -> Response:
        """Let the staged bundle answer a share of the users."""
        asked = await self._read(request, Canary)
        await self._service.releases.canary(asked.percent)
        return await self.status(request)

    async def activate(self, request: Request) -> Response:
        """Let the staged bundle answer everybody."""
        await self._service.releases.activate()
        return await self.status(request)

    async def rollback(self, request: Request) -> Response:
        """Back to the bundle before."""
        await self._service.releases.rollback()
        return await self.status(request)

    async def delist(self, request: Request) -> Response:
        """Take items out of all answers at once; ``unknown`` are ids that no bundle in service has."""
        asked, releases = await self._read(request, Delist), self._service.releases
        count = await releases.delist(asked.item_ids, delisted=asked.delisted)
        return json_response({"delisted": count, "unknown": releases.unknown(asked.item_ids)})

    async def delta(self, request: Request) -> Response:
        """Let the ranker take in the next delta of its tables, without a restart."""
        asked = await self._read(request, ApplyDelta)
        return json_response({"tables": await self._service.releases.apply_delta(Path(asked.delta))})

    async def _read(self, request: Request, kind: type[T]) -> T:
        return decoded(await raw(request, 16 << 20, 30.0), kind)
