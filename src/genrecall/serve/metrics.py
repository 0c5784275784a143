"""What the service measures, for Prometheus; no label ever holds a user, an item or a request."""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from genrecall.errors import DependencyError
from genrecall.serve.schema import Answer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Metric
    from prometheus_client.samples import Sample

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_STAGE_SECONDS = (0.0005, 0.001, 0.0025, *_SECONDS)


class Metrics:
    """The registry of one service, so that several may live in one process."""

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ModuleNotFoundError as error:
            raise DependencyError("prometheus-client", extra="serve", purpose="the service's metrics") from error
        registry = prometheus.CollectorRegistry()
        self.registry: CollectorRegistry = registry
        self._render = prometheus.generate_latest

        def counter(name: str, what: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(f"genrecall_{name}", what, labels, registry=registry)

        def gauge(name: str, what: str, *labels: str) -> prometheus.Gauge:
            return prometheus.Gauge(f"genrecall_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, bounds: tuple[float, ...], *labels: str) -> prometheus.Histogram:
            return prometheus.Histogram(f"genrecall_{name}", what, labels, buckets=bounds, registry=registry)

        self.request = histogram("request_duration_seconds", "Requests.", _SECONDS, "route", "code")
        self.stage = histogram("stage_duration_seconds", "Stages of answering.", _STAGE_SECONDS, "stage")
        self.channel = counter("channel_results", "Channels' outcomes.", "channel", "outcome")
        self.unique = counter("channel_unique_items", "Answered items that only this channel found.", "channel")
        self.fill = histogram("fill_ratio", "Eligible items of k that came without fallback.", _FILL, "tier")
        self.shed = counter("shed", "Requests refused, or answered without the generative channel.", "reason")
        self.narrowed = counter("narrowed", "Requests whose beam was narrowed under load.")
        self.degraded = counter("degraded", "Answers that were less than asked for.")
        self.cancelled = counter("cancelled", "Requests whose client went away.")
        self.late = counter("deadline_exceeded", "Channels that were not waited for.", "stage")
        self.invalid = counter("invalid_sid", "Answered SIDs that no item owns.")
        self.events = counter("events", "Events by what became of them.", "outcome")
        self.reload = counter("reload", "Bundles staged, activated, rolled back or refused.", "outcome")
        self.inflight = gauge("requests_inflight", "Requests that are being answered.")
        self.rows = gauge("beam_rows_inflight", "Beams of the requests on their way to the worker.")
        self.rows_limit = gauge("beam_rows_limit", "Beams that one batch takes.")
        self.progress = gauge("engine_last_progress_seconds", "Since the computing thread was last heard of.")
        self.restarts = gauge("engine_restarts", "Worker processes started after the first.")
        self.gateways = gauge("gateway_restarts", "Processes started after the first.", "started")
        # Looking a series up takes longer than counting in it, and there are few of these.
        self.request_of = functools.cache(self.request.labels)
        self.stage_of, self.channel_of = functools.cache(self.stage.labels), functools.cache(self.channel.labels)
        self.shed_of = functools.cache(self.shed.labels)
        self.bundle = gauge("bundle_info", "1 for each bundle in service.", "digest", "role")

    def answered(self, answer: Answer, k: int, tier: str, marks: Mapping[str, float]) -> None:
        """An answer of a request for ``k`` items: its coverage, and the seconds of its stages."""
        coverage = answer.coverage
        for stage, seconds in marks.items():
            self.stage_of(stage).observe(seconds)
        for name, channel in coverage.channels.items():
            self.channel_of(name, channel.outcome).inc()
            if channel.outcome == "timeout":
                self.late.labels(name).inc()
        alone = collections.Counter(next(iter(item.channels)) for item in answer.items if len(item.channels) == 1)
        for name, items in alone.items():
            self.unique.labels(name).inc(items)
        if coverage.degraded:
            self.degraded.inc()
        if 0 < coverage.beam < coverage.beam_asked:
            self.narrowed.inc()
        if "shed: generative" in coverage.reasons:
            self.shed.labels("rows").inc()
        self.fill.labels(tier).observe((len(answer.items) - coverage.filled) / k)

    def totals(self) -> dict[str, dict[str, float]]:
        """Since the start: requests that were refused, or answered with less, by reason."""
        shed = {sample.labels["reason"]: sample.value for sample in _counts(self.shed)}
        return {"shed": {**shed, "narrowed": sum(sample.value for sample in _counts(self.narrowed))}}

    def render(self) -> bytes:
        """Text format."""
        return self._render(self.registry)

    def told(self) -> bytes:
        """All samples, for ``render_all`` of another process."""
        return msgspec.msgpack.encode(
            [
                (family.name, family.documentation, family.type, [sample[:3] for sample in family.samples])
                for family in self.registry.collect()
            ]
        )

    def render_all(self, parts: Mapping[str, bytes]) -> bytes:
        """Text format of several processes' metrics, told apart by ``gateway``.

        Sums would shrink when a gateway is restarted, and a rate over them would take that for a new beginning.
        """
        from prometheus_client.core import Metric

        families: dict[str, Metric] = {}
        for gateway, part in parts.items():
            for name, what, kind, samples in _families(part):
                family = families.setdefault(name, Metric(name, what, kind))
                for sample, labels, value in samples:
                    family.add_sample(sample, {**labels, "gateway": gateway}, value)
        return self._render(_Collected(list(families.values())))


_Samples = list[tuple[str, dict[str, str], float]]
_families = msgspec.msgpack.Decoder(list[tuple[str, str, str, _Samples]]).decode


@dataclass(frozen=True)
class _Collected:
    """A registry that only renders."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families


def _counts(counter: Counter) -> list[Sample]:
    return [sample for family in counter.collect() for sample in family.samples if sample.name.endswith("_total")]


_FILL = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999, 1.0)
