"""A service in this process, over a real bundle, for tests that need no worker process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from genrecall import Recommender
from genrecall.bundle.contents import Contents
from genrecall.catalog.store import Catalog
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.serve.config import ServeConfig
from genrecall.serve.http.app import admin_app, data_app
from genrecall.serve.http.gate import Gate
from genrecall.serve.lanes import ThreadLane
from genrecall.serve.metrics import Metrics
from genrecall.serve.release import Release, channels_of
from genrecall.serve.releases import Releases
from genrecall.serve.service import Service
from genrecall.serve.state.ingest import Ingest
from genrecall.serve.state.state import State
from genrecall.serve.state.store import UserState
from genrecall.serve.tracing import Tracing


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """A running service and clients of its listeners."""

    service: Service
    gate: Gate
    client: httpx2.AsyncClient
    admin: httpx2.AsyncClient

    async def recommend(self, **asked: Any) -> dict[str, Any]:
        """POST /v1/recommend, which must succeed."""
        answer = await self.client.post("/v1/recommend", json=asked)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


class Spoiled:
    """A channel that misbehaves before it answers."""

    def __init__(self, name: str, before: Callable[[], None]) -> None:
        self.name, self._before = name, before

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """Misbehave, then answer the first items."""
        self._before()
        items = np.tile(np.arange(k, dtype=np.int32), (len(queries), 1))
        return Candidates(items=items, scores=-np.arange(k, dtype=np.float32)[None].repeat(len(queries), 0))


class AtItsBeam:
    """The generative channel in this process, with the beam that a worker would be asked for."""

    name = "generative"

    def __init__(self, opened: Recommender) -> None:
        self._channel, self._beam = opened.generative, opened.generative.members[0].config.beam

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """Lists of at most as many items as there are beams."""
        return self._channel.recall(queries, k, beams=[self._beam] * len(queries))


def shop(run: Path) -> Recommender:
    """The bundle with its model, once a process."""
    if run not in _SHOPS:
        _SHOPS[run] = Recommender.load(run / "bundle", device="cpu")
    return _SHOPS[run]


_SHOPS: dict[Path, Recommender] = {}


def release(run: Path, **other: Channel) -> Release:
    """The bundle in service, its generative channel in a thread; ``other`` channels replace its own."""
    contents = Contents.open(run / "bundle")
    channels: Mapping[str, Channel] = {"generative": AtItsBeam(shop(run)), **channels_of(contents), **other}
    lanes = {name: ThreadLane(channel) for name, channel in channels.items()}
    return Release(contents=contents, lanes=lanes, worker=None, weights={})


@contextlib.asynccontextmanager
async def serving(
    run: Path,
    state: Path,
    *,
    channels: Mapping[str, Channel] | None = None,
    store: State | None = None,
    tracing: Tracing | None = None,
    **settings: Any,
) -> AsyncIterator[World]:
    """A service over ``run``'s bundle with its catalog's histories."""
    config = ServeConfig(state=state, worker=None, **{"deadline_s": 5.0, **settings})
    users, metrics = store or UserState(state), Metrics()
    users.seed(Catalog.load(run / "catalog"), None)
    releases = Releases(config, users, metrics)
    releases.active = release(run, **(channels or {}))
    service = Service(config, releases, users, Ingest(users), metrics)
    service.tracing = tracing
    gate = data_app(service)
    base = "http://localhost"
    async with (
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=gate), base_url=base) as client,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=admin_app(service)), base_url=base) as admin,
    ):
        try:
            yield World(service=service, gate=gate, client=client, admin=admin)
        finally:
            await service.ingest.close()
            await releases.close()
            users.close()
