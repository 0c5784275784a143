"""The plan: more demand never means fewer GPUs, measured batches are learnt, and what is only a bound says so."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrecall.bench.engine import EngineBench, measure
from genrecall.bench.plan.capacity import Demand, plan
from genrecall.bench.plan.costs import Roofline
from genrecall.bench.plan.devices import stated
from genrecall.bench.plan.queue import Workload, load_of, saturated_rate, simulate
from genrecall.bench.shapes import shape_of
from genrecall.cli.main import app
from genrecall.engine.host.step import Load
from genrecall.errors import CapacityError, ConfigError

QUICK = Demand(users=1000, qps=200, requests=400)
RESULTS = Path(__file__).parents[2] / "benchmarks/results"


class _Constant:
    def __init__(self, seconds: float) -> None:
        self.each = seconds

    def seconds(self, load: Load) -> float:
        return self.each * load.requests


def test_waits_are_those_of_a_queue_whose_waits_are_known() -> None:
    """Batches of one: M/D/1, whose mean wait in the queue is s · busy / (2 (1 − busy)); its median is near it."""
    work = Workload(tokens=16, rows=(2, 2), batch=1)
    quiet = simulate(work, _Constant(0.01), 1.0, requests=500)
    assert quiet.p50_ms == pytest.approx(10.0)
    half = simulate(work, _Constant(0.01), 50.0, requests=8_000)
    assert half.busy == pytest.approx(0.5, abs=0.02)
    assert 10.0 < half.p50_ms < 20.0 < half.p99_ms < 60.0
    assert saturated_rate(work, _Constant(0.01)) == pytest.approx(100.0)


def test_the_bound_is_the_arithmetic_of_the_device() -> None:
    shape, rates = shape_of("qwen2-1.5b"), stated("h100")
    bound = Roofline(shape=shape, ranks=1, levels=4, item_bytes=2, rates=rates)
    weights = 28 * sum(a * b for a, b in shape.matrices)
    assert bound.seconds(Load(requests=1, tokens=1)) == pytest.approx(4 * 2 * weights / 3.35e12, rel=1e-6)
    assert bound.seconds(Load(requests=1, tokens=10**6)) == pytest.approx(2 * weights * 1e6 / 989e12)
    halves = replace(bound, ranks=2).seconds(Load(requests=1, tokens=10**6))
    assert halves == pytest.approx(bound.seconds(Load(requests=1, tokens=10**6)) / 2)


@pytest.mark.parametrize("more", [{"qps": 4000.0}, {"beam": 300}, {"history": 200}, {"shape": "qwen2.5-7b"}])
def test_more_demand_never_means_fewer_gpus(more) -> None:
    few, many = plan(replace(QUICK, qps=2000.0)), plan(replace(QUICK, **{"qps": 2000.0, **more}))
    assert few["basis"]["kind"] == "bound"
    assert many["gpus"] >= few["gpus"] >= 1
    assert many["token_rows_a_request"] >= few["token_rows_a_request"]
    for found in (few, many):
        assert found["expected"]["p99_ms"] <= QUICK.slo_ms


def test_tiers_hold_every_user() -> None:
    found = plan(replace(QUICK, users=10**6))
    kept = found["kept_prompts"]
    assert kept["mb_a_user"] == pytest.approx(150 * 2 * 28 * 2 * 128 * 2 / 1e6)
    others = 10**6 - kept["users_on_gpus"]
    assert kept["gb_for_the_others"] == pytest.approx(others * kept["mb_a_user"] / 1e3)
    assert sum(found["memory_gb_a_gpu"][name] for name in ("weights", "embedding", "beams", "prompts")) < 80
    half = plan(replace(QUICK, users=10**6, prompt_kv="fp8"))["kept_prompts"]["mb_a_user"]
    assert half == pytest.approx(kept["mb_a_user"] / 2)


def test_rates_of_a_measured_device_replace_the_stated_ones() -> None:
    file = RESULTS / "kernels/h100.json"
    found = plan(replace(QUICK, measured=file))
    assert "measured on NVIDIA H100" in found["basis"]["said"]
    assert found["one_request_alone_ms"] > plan(QUICK)["one_request_alone_ms"]


def test_a_plan_rests_on_measured_batches_and_is_checked_against_measured_waits(tmp_path) -> None:
    bench = EngineBench(
        shape="tiny", beams=(2, 4, 8), input=(14, 14), levels=2, codes=8, catalog_items=60, batches=(1, 2, 4),
        seconds=0.1, rate=20.0, device="cpu",
    )  # fmt: skip
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(measure(bench)))
    demand = Demand(
        users=100, qps=5, beam=4, history=6, words=2, slo_ms=1e4, shape="tiny", levels=2, codes=8, precision="fp32",
        measured=file, requests=200, batch=4,
    )  # fmt: skip
    found = plan(demand)
    assert found["basis"]["kind"] == "measured"
    assert "12 sizes" in found["basis"]["said"]
    assert {row["beam"] for row in found["checked"]} <= {2, 4, 8}
    assert all(row["predicted_p99_ms"] > 0 for row in found["checked"])
    for wrong in ({"shape": "small"}, {"precision": "bf16"}, {"ranks": 2}):
        with pytest.raises(ConfigError, match="measured something else"):
            plan(replace(demand, **wrong))
    few = json.loads(file.read_text())
    few["cases"] = dict(list(few["cases"].items())[:1])
    file.write_text(json.dumps(few))
    with pytest.raises(ConfigError, match="too few"):
        plan(demand)


def test_what_cannot_be_is_refused(tmp_path) -> None:
    with pytest.raises(CapacityError, match="no number"):
        plan(replace(QUICK, slo_ms=0.5))
    with pytest.raises(CapacityError, match="does not fit"):
        plan(replace(QUICK, shape="qwen2.5-7b", gpu="l4", precision="fp32", slo_ms=1e5))
    with pytest.raises(ConfigError, match="cannot be planned"):
        replace(QUICK, qps=0)
    with pytest.raises(ConfigError, match="nothing is stated"):
        plan(replace(QUICK, gpu="abacus"))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ConfigError, match="no measurement"):
        plan(replace(QUICK, measured=tmp_path / "other.json"))


def test_the_verb_says_what_the_plan_rests_on() -> None:
    arguments = ["plan", "--users", "1000", "--qps", "50", "--gpu", "h200", "--shape", "qwen2.5-7b", "--tp", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "at least 2" in result.stdout
    assert "data sheet" in result.stdout
    found = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(found.stdout)["replicas"] == 1


def test_the_guide_runs() -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/scale.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert len(lines) == 2
    for program, *arguments in lines:
        assert program == "genrecall"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert "at least" in result.stdout


def test_a_load_of_a_batch_is_that_of_its_requests() -> None:
    work = Workload(tokens=10, rows=(3, 5))
    assert load_of(work, 3) == Load(requests=3, tokens=30, rows=9, pairs=3 * (3 * 10 + 50))
