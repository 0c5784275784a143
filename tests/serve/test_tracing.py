"""Spans: their tree, their times, the trace that they continue, and their absence."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genrecall.errors import DependencyError
from genrecall.serve.tracing import Tracing
from tests.serve.world import serving

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced() -> tuple[Tracing, Any]:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Tracing(provider), kept


def test_a_request_is_a_tree_below_the_callers_span(run: Path, tmp_path: Path) -> None:
    tracing, kept = traced()

    async def scenario() -> None:
        async with serving(run, tmp_path, tracing=tracing) as world:
            answer = await world.client.post(
                "/v1/recommend", json={"user_id": "u3", "k": 3}, headers={"traceparent": SENT}
            )
            assert answer.status_code == 200
            spans = {span.name: span for span in kept.get_finished_spans()}
            root = spans["POST /v1/recommend"]
            assert f"{root.context.trace_id:032x}" == SENT.split("-")[1]
            assert f"{root.parent.span_id:016x}" == SENT.split("-")[2]
            told = answer.headers["traceparent"].split("-")
            assert told[1:3] == [f"{root.context.trace_id:032x}", f"{root.context.span_id:016x}"]
            assert {span.context.trace_id for span in spans.values()} == {root.context.trace_id}
            channels = spans["channels"]
            for name, above in (("state", root), ("channels", root), ("fusion", root),
                                ("channel item_cf", channels), ("channel generative", channels)):  # fmt: skip
                assert spans[name].parent.span_id == above.context.span_id
                assert above.start_time - 10**6 <= spans[name].start_time <= spans[name].end_time
            stages = ("state", "channels", "rank", "fusion")
            covered = sum(spans[name].end_time - spans[name].start_time for name in stages)
            measured = answer.json()["timing_ms"]["total"] * 1e6
            assert abs(covered - measured) < 0.05 * measured + 1e5  # the stages are all of the answer's time
            assert spans["channel item_cf"].attributes["genrecall.outcome"] == "ok"
            assert root.attributes["http.response.status_code"] == 200
            assert not re.search(r"\bu3\b|\bi\d+\b", " ".join(str(dict(span.attributes)) for span in spans.values()))

            kept.clear()
            refused = await world.client.post("/v1/recommend", json={"k": 0}, headers={"traceparent": "nonsense"})
            assert refused.status_code == 422
            (alone,) = kept.get_finished_spans()
            assert alone.parent is None
            await world.client.get("/metrics")
            assert len(kept.get_finished_spans()) == 1  # probes make none

    asyncio.run(scenario())


def test_the_standard_variables_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    for off in ({}, {"OTEL_TRACES_EXPORTER": "none", **endpoint}, {"OTEL_SDK_DISABLED": "true", **endpoint}):
        assert Tracing.from_environment(off) is None
    for on in (endpoint, {"OTEL_TRACES_EXPORTER": "console"}):
        tracing = Tracing.from_environment(on)
        assert tracing is not None
        tracing.close()
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(DependencyError, match="opentelemetry-sdk"):
        Tracing.from_environment(endpoint)


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    code = "import sys, genrecall.serve.tracing as t; t.Tracing.from_environment({}); "
    code += "print('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
