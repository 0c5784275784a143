"""What the console reads beside the API that everybody uses; made on demand, kept for the bundle that it is of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall.bundle.contents import Contents
from genrecall.serve import codebooks, data
from genrecall.serve.differences import differences
from genrecall.serve.experiments import Experiments
from genrecall.serve.http.api import json_response
from genrecall.serve.neighbours import Neighbours
from genrecall.serve.problems import Problem
from genrecall.serve.service import Service

T = TypeVar("T")
_NEIGHBOURS, _LONGEST_PREFIX = 12, 200


class Insight:
    """Handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sids = _OfBundle(codebooks.summary)
        self._data = _OfBundle(data.summary)
        self._neighbours = _OfBundle(Neighbours)

    @cached_property
    def _experiments(self) -> Experiments:
        return Experiments(self._service.config, self._service.state)

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/sids", self.sids, methods=["GET"]),
            Route("/v1/sids/items", self.below, methods=["GET"]),
            Route("/v1/neighbours/{item_id:path}", self.neighbours, methods=["GET"]),
            Route("/v1/data", self.data, methods=["GET"]),
            Route("/v1/experiments", self.experiments, methods=["GET"]),
            Route("/v1/releases", self.releases, methods=["GET"]),
        ]

    async def sids(self, request: Request) -> Response:
        """How the active bundle's SIDs lie."""
        return json_response(await self._sids.read(self._contents()))

    async def below(self, request: Request) -> Response:
        """Items whose SIDs begin with ``prefix``; without one, all of them."""
        prefix = request.query_params.get("prefix", "")
        if len(prefix) > _LONGEST_PREFIX:
            raise Problem("invalid", f"prefix: at most {_LONGEST_PREFIX} characters")
        found = await asyncio.to_thread(codebooks.below, self._contents(), prefix)
        if found is None:
            raise Problem("invalid", "prefix: codes of the active bundle, as in <a_1><b_2>")
        return json_response(found)

    async def neighbours(self, request: Request) -> Response:
        """An item's neighbours by SID and by vector."""
        contents = self._contents()
        index = contents.items.index.get(request.path_params["item_id"])
        if index is None:
            raise Problem("not_found", "no such item in the active bundle")
        neighbours = await self._neighbours.read(contents)
        return json_response(await asyncio.to_thread(neighbours.of, index, _NEIGHBOURS))

    async def data(self, request: Request) -> Response:
        """What the active bundle's data are like, and what their import found."""
        return json_response(await self._data.read(self._contents()))

    async def experiments(self, request: Request) -> Response:
        """The running experiments and their reports."""
        return json_response(await self._experiments.summary())

    async def releases(self, request: Request) -> Response:
        """Which bundle is in which role, what each answered in the last minute, and what the other one changes."""
        releases = self._service.releases
        pair = (releases.active, releases.candidate) if releases.candidate else (releases.previous, releases.active)
        before, after = pair
        changes = None
        if before is not None and after is not None:
            changes = await asyncio.to_thread(differences, before.contents, after.contents)
        traffic = (await asyncio.to_thread((await self._service.all_traffic()).summary))["releases"]
        return json_response({**releases.status(), "traffic": traffic, "differences": changes})

    def _contents(self) -> Contents:
        return self._service.releases.named("active").contents


class _OfBundle(Generic[T]):
    """Something that is made of a bundle's contents when it is first asked for, by one thread."""

    def __init__(self, make: Callable[[Contents], T]) -> None:
        self._make, self._lock = make, asyncio.Lock()
        self._made: tuple[str, T] | None = None

    async def read(self, contents: Contents) -> T:
        """It, for this bundle."""
        async with self._lock:
            if self._made is None or self._made[0] != contents.digest:
                self._made = contents.digest, await asyncio.to_thread(self._make, contents)
            return self._made[1]
