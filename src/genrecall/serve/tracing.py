"""Spans of every request for OpenTelemetry; without the standard variables none of it is even imported.

    request → state · channels → (one a channel → queued · computed) · fusion

On where ``OTEL_TRACES_EXPORTER`` is ``otlp`` or ``console``, or an ``OTEL_EXPORTER_OTLP_ENDPOINT`` is given; sampling,
service name, headers and endpoint are the SDK's own variables. A request's ``traceparent`` (W3C Trace Context) is
continued, and the answer carries the request span's own. Spans are made when the answer is ready, from the times that
are measured anyway. No attribute holds a user, an item or a query.
"""

from __future__ import annotations

import contextvars
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from genrecall.errors import DependencyError
from genrecall.serve.schema import Answer

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_current: contextvars.ContextVar[Any] = contextvars.ContextVar("request span", default=None)


class Request:
    """The span of one request, open while it is answered.

    Attributes:
        traceparent: to be sent back.
        status: HTTP status; set before it ends.
        route: set where it is known.
    """

    def __init__(self, traceparent: str) -> None:
        self.traceparent, self.status, self.route = traceparent, 0, ""


class Tracing:
    """Makes spans.

    Args:
        provider: of the SDK.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._trace, self._propagator = provider, trace, TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("genrecall")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """As the standard variables say; None where they ask for nothing.

        Raises:
            DependencyError: they ask for traces, and the SDK is not installed.
        """
        kind = environment.get(_EXPORTER, "otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none")
        if kind == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        except ModuleNotFoundError as error:
            raise DependencyError("opentelemetry-sdk", extra="otel", purpose="traces") from error
        named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "genrecall"}
        provider = TracerProvider(resource=Resource.create(named))
        exporter = ConsoleSpanExporter() if kind == "console" else OTLPSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    @contextmanager
    def request(self, name: str, sent: Mapping[str, str]) -> Iterator[Request]:
        """The span of a request, below the ``traceparent`` that was sent, if any."""
        above = self._propagator.extract(dict(sent))
        span = self._tracer.start_span(name, context=above, kind=self._trace.SpanKind.SERVER)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span))
        token, told = _current.set(span), Request(carrier.get("traceparent", ""))
        try:
            yield told
        finally:
            _current.reset(token)
            if told.route:
                span.update_name(f"{name} {told.route}")
                span.set_attribute("http.route", told.route)
            span.set_attribute("http.response.status_code", told.status)
            if told.status >= 500:
                span.set_status(self._trace.StatusCode.ERROR)
            span.end()

    def answered(self, answer: Answer, k: int) -> None:
        """Spans of an answer's stages and channels, which ends now."""
        request = _current.get()
        if request is None or not request.is_recording():
            return
        timing, end = answer.timing_ms, time.time_ns()
        begun = end - _ns(timing["total"])
        coverage = answer.coverage
        for name, value in (
            ("k", k), ("degraded", coverage.degraded), ("beam", coverage.beam), ("filled", coverage.filled),
            ("bundle", answer.versions.bundle), ("request_id", answer.request_id),
        ):  # fmt: skip
            request.set_attribute(f"genrecall.{name}", value)
        below = self._trace.set_span_in_context(request)
        asked = begun + _ns(timing["state"])
        fused = asked + _ns(timing["channels"])
        self._span("state", below, begun, asked)
        channels = self._span("channels", below, asked, fused)
        for name, told in coverage.channels.items():
            facts = {"outcome": told.outcome, "items": told.items}
            self._span(f"channel {name}", channels, asked, asked + _ns(told.ms), facts)
        ranked = fused + _ns(timing["rank"])
        self._span("rank", below, fused, ranked)
        self._span("fusion", below, ranked, end)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()

    def _span(self, name: str, above: Any, begun: int, end: int, facts: Mapping[str, Any] | None = None) -> Any:
        """A finished span, and the context below it."""
        attributes = {f"genrecall.{key}": value for key, value in (facts or {}).items()}
        span = self._tracer.start_span(name, context=above, start_time=begun, attributes=attributes)
        span.end(end)
        return self._trace.set_span_in_context(span)


def _ns(milliseconds: float) -> int:
    return int(milliseconds * 1e6)
