"""Alive, ready, measured: what probes, Prometheus and the console's live page read."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall.serve.http.api import json_response
from genrecall.serve.http.gate import Gate
from genrecall.serve.metrics import Metrics
from genrecall.serve.service import Service
from genrecall.serve.worker.lane import WorkerLane


class Health:
    """Handlers over a service and its gate."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.gate: Gate | None = None

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/health/live", self.live, methods=["GET"]),
            Route("/health/ready", self.ready, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def live(self, request: Request) -> Response:
        """The process runs its loop."""
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 only while new requests get the whole answer: not draining, a bundle active, its worker getting on."""
        reasons = self.reasons()
        return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def health(self, request: Request) -> Response:
        """Everything at a glance, for the console."""
        service = self._service
        return json_response(
            {
                "ready": not self.reasons(),
                "reasons": self.reasons(),
                "releases": service.releases.status(),
                "state": await asyncio.to_thread(service.state.counts),
                "worker": self._worker(),
                "inflight": self.gate.inflight if self.gate else 0,
                "traffic": await asyncio.to_thread((await service.all_traffic()).summary),
                "gateways": service.config.gateways,
                "totals": service.metrics.totals(),
                "limits": {
                    "deadline_ms": round(service.config.deadline_s * 1e3),
                    "max_inflight": service.config.max_inflight,
                    "inflight_limit": round(service.limiter.limit, 1),
                    "loop_lag_ms": round(service.limiter.lag_s * 1e3, 2),
                },
            }
        )

    async def metrics(self, request: Request) -> Response:
        """Prometheus text format."""
        metrics, fellows = self._service.metrics, self._service.fellows
        self._measured()
        if fellows is None:
            rendered = await asyncio.to_thread(metrics.render)
        else:
            seat = self._service.config.seat
            assert seat is not None
            told = {seat.name: await asyncio.to_thread(metrics.told), **await fellows("metrics", {})}
            rendered = await asyncio.to_thread(metrics.render_all, told)
        return Response(rendered, media_type="text/plain; version=0.0.4; charset=utf-8")

    def measured(self) -> bytes:
        """The metrics of this process, for another one."""
        return self._measured().told()

    def _measured(self) -> Metrics:
        metrics, worker = self._service.metrics, self._worker()
        metrics.inflight.set(self.gate.inflight if self.gate else 0)
        for name, gateway in self._service.gateways.items():
            metrics.gateways.labels(name).set(gateway.restarts)
        if worker is not None:
            metrics.rows.set(worker["rows"])
            metrics.rows_limit.set(worker["batch_rows"])
            metrics.progress.set(worker["silence_s"])
            metrics.restarts.set(worker["restarts"])
        return metrics

    def reasons(self) -> list[str]:
        """Why the service is not ready; empty if it is."""
        found = []
        active = self._service.releases.active
        if self.gate is not None and self.gate.draining:
            found.append("draining")
        if active is None:
            found.append("no bundle is active")
        elif active.worker is not None and active.worker.state != "ready":
            found.append(f"the generative channel is {active.worker.state}: the others answer alone")
        if active is not None and active.classic is not None and active.classic.process.state != "ready":
            found.append(f"the classic channels are {active.classic.process.state}")
        return found

    def _worker(self) -> dict[str, Any] | None:
        active = self._service.releases.active
        if active is None or active.worker is None:
            return None
        worker = active.worker
        return {
            "state": worker.state,
            "silence_s": round(worker.silence_s, 3),
            "rows": worker.rows,
            "batch_rows": worker.lanes[0].cost.batch_rows(active.beam),
            "device": None if worker.facts is None else worker.facts.device,
            "base_ms": round(worker.lanes[0].cost.base_s * 1e3, 3),
            "row_ms": round(worker.lanes[0].cost.row_s * 1e3, 5),
            "restarts": worker.restarts,
            "retried": worker.retried,
            "replicas": [_replica(lane) for lane in worker.lanes],
        }


def _replica(lane: WorkerLane) -> dict[str, Any]:
    child = lane.process.child
    running, waiting = (0, 0) if child is None else child.record.rows
    return {
        "state": lane.process.state,
        "asked_rows": lane.rows,
        "running_rows": running,
        "waiting_rows": waiting,
        "batches": 0 if child is None else child.record.batches,
    }
