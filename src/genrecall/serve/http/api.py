"""The native API: /v1/…"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall.serve.http.body import decoded, raw, require_json, while_connected
from genrecall.serve.problems import Problem
from genrecall.serve.release import Release
from genrecall.serve.schema import MAX_HISTORY, Event, Events, EventsStored, ItemPage, Rank, Recommend, Search
from genrecall.serve.service import Service
from genrecall.serve.state.ingest import IngestFullError, StorageError

T = TypeVar("T")
_NEIGHBOURS = 12
_AHEAD_S = 86_400  # clocks differ; an import leaves out what is later


def json_response(body: object, status: int = 200) -> Response:
    """Any msgspec type or plain value."""
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")


class NativeApi:
    """Handlers of the native API over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/recommend", self.recommend, methods=["POST"]),
            Route("/v1/search", self.search, methods=["POST"]),
            Route("/v1/rank", self.rank, methods=["POST"]),
            Route("/v1/events", self.events, methods=["POST"]),
            Route("/v1/items/{item_id:path}", self.item, methods=["GET"]),
            Route("/v1/explain/{request_id}", self.explain, methods=["GET"]),
            Route("/v1/users", self.users, methods=["GET"]),
            Route("/v1/users/{user_id:path}", self.user, methods=["GET", "DELETE"]),
        ]

    async def recommend(self, request: Request) -> Response:
        """Which items next."""
        return await self._answer(request, Recommend)

    async def search(self, request: Request) -> Response:
        """Which items a text asks for."""
        return await self._answer(request, Search)

    async def rank(self, request: Request) -> Response:
        """In which order a user would want given items."""
        asked = await self._read(request, Rank)
        return json_response(await while_connected(request, self._service.rank(asked, request.state.request_id)))

    async def events(self, request: Request) -> Response:
        """Store events; answered when they are on disk. With ``Idempotency-Key`` a repeated batch counts once."""
        batch = await self._read(request, Events)
        events = batch.events
        _require_sense(events)
        key = request.headers.get("idempotency-key")
        if key is not None:
            if not 1 <= len(key) <= 100 or not (key.isascii() and key.isprintable()):
                raise Problem("invalid", "Idempotency-Key: 1 to 100 printable ASCII characters")
            events = [
                event if event.event_id is not None else msgspec.structs.replace(event, event_id=f"{key}#{place}")
                for place, event in enumerate(events)
            ]
        try:
            stored = await self._service.ingest.store(events)
        except IngestFullError:
            raise Problem("overloaded", "too many events wait for the disk", retry_after_s=1) from None
        except StorageError:
            self._service.metrics.events.labels("failed").inc(len(events))
            raise Problem("storage_failed", "nothing of this batch was stored", retry_after_s=5) from None
        self._service.metrics.events.labels("accepted").inc(stored.accepted)
        self._service.metrics.events.labels("duplicate").inc(stored.duplicates)
        index = self._release().contents.items.index
        unknown = sum(event.item_id is not None and event.item_id not in index for event in events)
        return json_response(
            EventsStored(
                accepted=stored.accepted, duplicates=stored.duplicates, unknown_items=unknown, sequence=stored.sequence
            )
        )

    async def item(self, request: Request) -> Response:
        """What is known of an item."""
        release, item_id = self._release(), request.path_params["item_id"]
        index = release.contents.items.index.get(item_id)
        if index is None:
            raise Problem("not_found", "no such item in the active bundle")
        return json_response(await asyncio.to_thread(_page, release, index))

    async def explain(self, request: Request) -> Response:
        """Why an answer was as it was."""
        told = await self._service.explain(request.path_params["request_id"])
        return Response(told, media_type="application/json")

    async def users(self, request: Request) -> Response:
        """Ids of users that begin with ``prefix``."""
        prefix = request.query_params.get("prefix", "")
        if len(prefix) > 120:
            raise Problem("invalid", "prefix: at most 120 characters")
        return json_response({"users": await asyncio.to_thread(self._service.state.users, prefix)})

    async def user(self, request: Request) -> Response:
        """A user's history and profile (GET), or erase all that is known of a user (DELETE)."""
        user_id, state = request.path_params["user_id"], self._service.state
        if not 1 <= len(user_id) <= 120:
            raise Problem("not_found", "no such user")
        if request.method == "DELETE":
            return json_response({"user_id": user_id, "erased_events": await self._service.forget(user_id)})
        contents = self._release().contents
        pasts, profile = await asyncio.to_thread(state.known, user_id)
        if not pasts and not profile:
            raise Problem("not_found", "no such user")
        shown = []
        for past in pasts[-MAX_HISTORY:]:
            index = contents.items.index.get(past.item_id)
            shown.append(
                {
                    "item_id": past.item_id,
                    "title": None if index is None else contents.items.titles[index],
                    "sid": None if index is None else contents.table.written(index),
                    "timestamp": past.time,
                }
            )
        return json_response({"user_id": user_id, "profile": profile, "history": shown})

    async def _answer(self, request: Request, kind: type[Recommend] | type[Search]) -> Response:
        asked = await self._read(request, kind)
        answer = await while_connected(request, self._service.answer(asked, request.state.request_id))
        return json_response(answer)

    async def _read(self, request: Request, kind: type[T]) -> T:
        require_json(request)
        config = self._service.config
        return decoded(await raw(request, config.max_body_bytes, config.body_s), kind)

    def _release(self) -> Release:
        return self._service.releases.pick("")[0]


def _require_sense(events: Sequence[Event]) -> None:
    """Refuse what no training would take: it would stay a history's newest event for years, or tell nothing."""
    latest = time.time() + _AHEAD_S
    for place, event in enumerate(events):
        if (event.timestamp or 0) > latest:
            raise Problem(
                "invalid", f"more than a day in the future; seconds are wanted - at `$.events[{place}].timestamp`"
            )
        needed, told = ("query", event.query) if event.event == "query" else ("item_id", event.item_id)
        if told is None:
            raise Problem("invalid", f"an event of kind {event.event} needs `{needed}` - at `$.events[{place}]`")


def _page(release: Release, index: int) -> ItemPage:
    contents = release.contents
    table, items, sids = contents.table, contents.items, contents.table.sids
    # How many leading codes each item shares with this one.
    shared = np.cumprod(sids == sids[index], axis=1).sum(axis=1)
    shared[index] = 0
    near = np.argsort(-shared, kind="stable")[:_NEIGHBOURS]
    row = items.table.slice(index, 1).to_pylist()[0]
    plain = {
        name: value
        for name, value in row.items()
        if name not in ("item_id", "title") and isinstance(value, str | float | int | bool | None)
    }
    return ItemPage(
        item_id=items.ids[index],
        title=items.titles[index],
        sid=table.written(index),
        available=index not in release.gone,
        fields=plain,
        neighbours=[
            {"item_id": items.ids[i], "title": items.titles[i], "sid": table.written(i)}
            for i in near.tolist()
            if shared[i] > 0
        ],
    )
