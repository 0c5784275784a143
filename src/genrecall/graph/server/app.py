"""The server of graphs: the gateway's gate and listener around its own routes, from start to drained stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from genrecall.errors import ConfigError
from genrecall.graph.saved import load
from genrecall.graph.server.inference import GraphInference
from genrecall.graph.server.model import Model
from genrecall.graph.server.rest import GraphRest
from genrecall.serve.config import ServeConfig
from genrecall.serve.http.api import json_response
from genrecall.serve.http.gate import Gate
from genrecall.serve.http.tls import Certificate
from genrecall.serve.limiter import Limiter
from genrecall.serve.listeners import drain, http_server, listen
from genrecall.serve.metrics import Metrics


def open_models(paths: Mapping[str, Path], engines: list[str], threads: ThreadPoolExecutor) -> dict[str, Model]:
    """Graphs by name.

    Raises:
        ConfigError: a name that an address cannot hold.
        ArtifactError, CompilerError: see ``saved.load``.
    """
    for name in paths:
        if not name or set(name) & set("/:?#% "):
            raise ConfigError(
                "a graph cannot be served under this name",
                seen=name or "no name",
                allowed="names without / : ? # % and spaces",
                fix="write NAME=DIRECTORY",
            )
    return {name: Model(name, load(path, engines), threads) for name, path in paths.items()}


def graph_app(models: Mapping[str, Model], config: ServeConfig, metrics: Metrics) -> Gate:
    """What clients reach."""
    probes = Probes(models, metrics)
    routes = [
        *probes.routes(),
        *GraphRest(models, config).routes(),
        *GraphInference(models, config).routes(),
    ]
    limiter = Limiter(config.max_inflight, config.deadline_s)
    limiter.limit = float(config.max_inflight)  # graphs keep deadlines of their own
    probes.gate = gate = Gate(_Routes(routes), config, metrics, routes, limiter)
    return gate


class Probes:
    """Alive, ready, measured."""

    def __init__(self, models: Mapping[str, Model], metrics: Metrics) -> None:
        self._models, self._metrics = models, metrics
        self.gate: Gate | None = None

    def routes(self) -> list[Route]:
        """Where they are."""
        found = [Route(path, self.live, methods=["GET"]) for path in ("/health/live", "/v2/health/live")]
        found += [Route(path, self.ready, methods=["GET"]) for path in ("/health/ready", "/v2/health/ready")]
        return [*found, Route("/metrics", self.metrics, methods=["GET"])]

    async def live(self, request: Request) -> Response:
        """The process runs its loop."""
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 only while every graph has an engine that accepts requests, and the server takes new ones."""
        reasons = [f"no engine of {name} can be reached" for name, one in self._models.items() if not one.reachable()]
        if self.gate is not None and self.gate.draining:
            reasons.append("draining")
        return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def metrics(self, request: Request) -> Response:
        """Prometheus text format."""
        self._metrics.inflight.set(self.gate.inflight if self.gate else 0)
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def serve(
    paths: Mapping[str, Path], config: ServeConfig, *, engines: list[str], told: Callable[[str, dict[str, Model]], None]
) -> None:
    """Serve graphs until SIGTERM or SIGINT, then drain.

    Args:
        paths: directories by name.
        config: of the listener.
        engines: sockets to ask in place of those that the graphs were built with; empty keeps them.
        told: called with the address and the graphs when everything answers.
    """
    threads = ThreadPoolExecutor(config.max_inflight, thread_name_prefix="graph")
    models = await asyncio.to_thread(open_models, paths, engines, threads)
    for model in models.values():
        await model.warm_up()
    listener = listen(config)
    certificate = None if config.tls is None else Certificate(*config.tls)
    gate = graph_app(models, config, Metrics())
    server = http_server(gate, certificate)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        told(f"{'http' if certificate is None else 'https'}://{shown}:{port}", models)
        await asyncio.wait((stopping, running), return_when=asyncio.FIRST_COMPLETED)
        await drain(gate, config.drain_s)
    finally:
        server.should_exit = True
        await running
        threads.shutdown(wait=False)


class _Routes:
    """Starlette's router, whose misses raise so that the gate words the answer."""

    def __init__(self, routes: list[Route]) -> None:
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._router(scope, receive, send)
