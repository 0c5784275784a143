"""The benchmark measures what it says: every suite runs, is written as it goes, resumed, and survives a failure."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from genrecall.bench import suites
from genrecall.bench.engine import SUITES, EngineBench, failed, measure
from genrecall.bench.floor import rows_of
from genrecall.bench.load import open_loop, slope
from genrecall.bench.plot import draw, rates_against_p99, shares_by_kernel
from genrecall.bench.shapes import SHAPES, random_model
from genrecall.cli.main import app
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.errors import ConfigError, DataError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from genrecall.sid.table import SidTable

BENCH = EngineBench(
    shape="tiny", beams=(3, 5), input=(8, 8), levels=2, codes=8, catalog_items=50, large_items=60, long_prompt=60,
    batches=(2,), seconds=0.03, probes=1, checked_beams=40, device="cpu",
)  # fmt: skip


def test_the_table_sets_engine_floor_and_transformers_side_by_side(tmp_path):
    heard: dict[str, dict] = {}
    bench = replace(BENCH, beams=(5,), rate=50.0, slo_ms=1e4, versus_hf=True)
    found = measure(bench, tmp_path / "found.json", heard.__setitem__)
    assert heard == found["cases"] == json.loads((tmp_path / "found.json").read_text())["cases"]
    assert list(heard) == ["transformers W=5", "fp32 W=5"]
    for beam in (5,):
        point = heard[f"fp32 W={beam}"]
        assert point["rows"] == [8, beam]
        assert point["share_of_floor"] == point["requests_per_s"] / point["floor"]["requests_per_s"]
        assert point["requests_per_s"] < 1e5, "batches that come at once are not counted as a rate of their own"
        assert point["open_loop"]["p50_ms"] <= point["open_loop"]["p99_ms"]
        assert 0 < point["slo"]["rate"] == point["slo_of_saturated"] * point["requests_per_s"]
        assert point["memory_gb"]["trie"] > 0
        assert heard[f"transformers W={beam}"]["requests_per_s"] > 0
    draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.suites
@pytest.mark.parametrize("suite", ["open-loop", "options", "catalog", "long"])
def test_every_suite_runs(suite, tmp_path):
    sids = np.random.default_rng(0).integers(0, 6, (40, 3))
    ids = [str(place) for place in range(40)]
    SidTable(space=SidSpace((6, 6, 6)), item_ids=ids, sids=sids.astype(np.int32)).write(tmp_path / "table.parquet")
    found = measure(replace(BENCH, suites=(suite,), table=tmp_path))
    assert failed(found) == [], [found["cases"][name]["error"] for name in failed(found)]
    assert len(found["cases"]) == len(list(SUITES[suite](replace(BENCH, table=tmp_path))))
    cases = found["cases"]
    if suite == "options":
        assert 0 < cases["forced levels"]["rows_that_must_run"] < cases["forced levels"]["rows"]
        assert cases["schedule"]["widths"] == [1, 5]
        assert cases["trunk:tiny"]["W=3"]["requests_per_s"] > 0
        assert cases["score candidates"]["batches of 1"]["over_floor"] > 0
    if suite == "catalog":
        assert cases["valid and distinct"]["returned"] >= 40
        assert cases["catalog swapped under load"]["swaps"] > 0
        assert cases["large catalog"]["items"] == 60
    if suite == "long":
        assert cases["kept prefixes"]["tokens_kept"]["hit"] > 0
        assert cases["prefixes kept in host memory"]["tokens_kept"]["from_host"] > 0


@pytest.mark.suites
def test_a_start_is_two_processes() -> None:
    start = measure(replace(BENCH, suites=("start",)))["cases"]["start"]
    for name in ("cold caches", "warm caches"):
        assert start[name]["first_answer_s"] < start[name]["total_s"] < start[name]["process_s"]


def test_a_case_that_fails_is_recorded_and_tried_again(tmp_path, monkeypatch):
    file, bench = tmp_path / "found.json", replace(BENCH, alone=False)
    point = suites.point_of

    def broken(bench, beam, rig):
        if beam == 3:
            raise RuntimeError("the device is gone")
        return point(bench, beam, rig)

    monkeypatch.setattr(suites, "point_of", broken)
    found = measure(bench, file)
    assert failed(found) == ["fp32 W=3"]
    assert found["cases"]["fp32 W=3"]["error"] == "RuntimeError: the device is gone"
    kept = found["cases"]["fp32 W=5"]
    monkeypatch.setattr(suites, "point_of", point)
    heard: dict[str, dict] = {}
    again = measure(bench, file, heard.__setitem__)
    assert failed(again) == []
    assert list(heard) == ["fp32 W=3"]
    assert again["cases"]["fp32 W=5"] == kept
    with pytest.raises(ConfigError, match="something else"):
        measure(replace(bench, codes=16), file)


def test_rows_of_the_floor() -> None:
    assert rows_of(150, 300, (256,) * 4) == (150, 256, 300, 300)
    assert rows_of(150, 5, (256,) * 4) == (150, 5, 5, 5)
    assert rows_of(150, 300, (8192,) * 3) == (150, 300, 300)


def test_what_a_picture_shows(tmp_path) -> None:
    loop = {"rate": 10.0, "p99_ms": 5.0}
    table = {
        "gpu_time": {"by_kind_ms": {"linear layers": 80.0, "attention": 8.0}}, "batch": 2, "share_of_floor": 0.8,
        "floor": {"requests_per_s": 100.0}, "slo_probes": {"uncapped": [loop, {"rate": 9.0, "p99_ms": float("inf")}]},
    }  # fmt: skip
    found = {"cases": {"bf16 W=5": table, "lost": {"error": "no"}}}
    assert rates_against_p99(found) == {"bf16 W=5": [(10.0, 5.0)]}
    shares = shares_by_kernel(found)["bf16 W=5"]
    assert shares == pytest.approx({"linear layers": 1.0, "attention": 0.1, "idle": 0.15})
    with pytest.raises(DataError, match="drawn"):
        draw({"cases": {}}, tmp_path / "none.png")


@pytest.mark.parametrize("begin", [0.0, 0.03, 0.079])
def test_a_rate_is_not_off_by_a_batch(begin: float) -> None:
    """Batches of 16 every 80 ms are 200 answers a second, wherever a window of ten of them begins."""
    stamps = np.repeat(np.arange(1, 30) * 0.08, 16)
    window = stamps[(stamps >= 0.5 + begin) & (stamps <= 1.3 + begin)]
    assert slope(window) == pytest.approx(200.0, rel=1e-6)


def test_latency_counts_from_the_arrival() -> None:
    """At far more arrivals than can be answered, the last waits for all before it."""
    space = SidSpace((4, 4))
    model = random_model(SHAPES["tiny"], 8, device=torch.device("cpu"), dtype=torch.float32, seed=0)
    trie = Trie.build(space, np.array([[0, 1], [1, 2]], dtype=np.int32))
    tokens = [np.arange(1024, 1028), np.arange(1028, 1032)]
    engine = Engine(model, trie, tokens, EngineConfig(device="cpu", max_rows=1))
    engine.generate([Request(tokens=(1, 2, 3), beam=1)])  # the first one takes longer, and all would wait for it
    found = open_loop(engine, lambda number: Request(tokens=(1, 2, 3), beam=1), rate=1e5, seconds=3e-4)
    assert found.refused == 0
    assert found.p99_ms > 1.5 * found.p50_ms
    assert found.answered < found.rate


def test_the_verb_prints_json_and_ends_with_1_where_a_case_failed(tmp_path) -> None:
    arguments = ["bench", "engine", "--shape", "tiny", "--catalog-items", "50", "--input", "8", "--beam", "3"]
    arguments += ["--batch", "2", "--seconds", "0.03", "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["cases"]["fp32 W=3"]["requests_per_s"] > 0
    result = CliRunner().invoke(app, [*arguments, "--input", "2000"])  # longer than the model's window
    assert result.exit_code == 1
    assert "window" in json.loads(result.stdout)["cases"]["fp32 W=3"]["error"]


def test_what_cannot_be_measured_is_refused() -> None:
    for wrong in ({"precisions": ("fp64",)}, {"suites": ("everything",)}, {"input": (9, 8)}):
        with pytest.raises(ConfigError, match="cannot be measured"):
            EngineBench(**wrong)


@pytest.mark.ranks
def test_ranks_are_set_beside_one(tmp_path) -> None:
    """In a process of its own: torch.distributed stays in the one that leads."""
    arguments = ["--shape", "tiny", "--beam", "3", "--input", "8", "--layout", "2x8", "--catalog-items", "50"]
    arguments += ["--batch", "2", "--seconds", "0.05", "--device", "cpu", "--tp", "2", "--json"]
    arguments += ["--sequence-tokens", "8", "--out", str(tmp_path / "found.json")]
    command = [sys.executable, "-m", "genrecall", "bench", "engine", *arguments]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout)
    one, *spread = found["cases"].values()
    assert one["setup"]["ranks"] == 1
    assert [figures["setup"]["sequence_tokens"] for figures in spread] == [0, 8]
    for figures in spread:
        assert figures["setup"]["ranks"] == 2
        assert figures["equal_on_every_rank"]
        versus = figures["versus_one_rank"]
        assert versus["equal_lists"] == versus["shared_sids"] == 1.0
        assert versus["alone_ms"] == figures["alone_ms"] / one["alone_ms"]


@pytest.mark.ranks
def test_replicas_are_set_beside_one() -> None:
    found = measure(replace(BENCH, suites=("replicas",), beams=(3,), seconds=0.2))
    assert failed(found) == []
    (figures,) = found["cases"].values()
    assert [len(rates) for rates in figures["rates_by_count"].values()] == [1, 2]
    assert figures["times_one"] == sum(figures["rates_by_count"]["2"]) / sum(figures["rates_by_count"]["1"])
    with pytest.raises(ConfigError, match="beside one"):
        measure(replace(BENCH, suites=("replicas",), replicas=1))
