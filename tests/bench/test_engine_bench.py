"""The benchmark measures what it says: engine, floor, loads and transformers' search run and are told apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from genrecall.bench.engine import EngineBench, measure
from genrecall.bench.floor import rows_of
from genrecall.bench.load import open_loop
from genrecall.bench.shapes import SHAPES, random_model
from genrecall.cli.main import app
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace


def test_engine_floor_loads_and_baseline_are_timed() -> None:
    bench = EngineBench(
        shape="tiny", beams=(3, 5), input=8, levels=2, codes=8, catalog_items=50, batches=(2,), seconds=0.05,
        rate=50.0, slo_ms=1e4, versus_hf=True, device="cpu",
    )  # fmt: skip
    heard: list[dict] = []
    found = measure(bench, heard.append)
    assert heard == found["points"]
    assert [point["beam"] for point in found["points"]] == [3, 5]
    for point in found["points"]:
        assert point["rows"] == (8, point["beam"])
        assert point["share_of_floor"] == point["requests_per_s"] / point["floor"]["requests_per_s"]
        assert point["requests_per_s"] < 1e5, "batches that come at once are not counted as a rate of their own"
        assert point["ratio"] == point["requests_per_s"] / point["transformers_requests_per_s"]
        assert point["open_loop"]["p50_ms"] <= point["open_loop"]["p99_ms"]
        assert point["slo"]["rate"] <= point["requests_per_s"]
    assert found["hardware"]["packages"]["torch"]


def test_rows_of_the_floor() -> None:
    assert rows_of(150, 300, (256,) * 4) == (150, 256, 300, 300)
    assert rows_of(150, 5, (256,) * 4) == (150, 5, 5, 5)
    assert rows_of(150, 300, (8192,) * 3) == (150, 300, 300)


def test_latency_counts_from_the_arrival() -> None:
    """At far more arrivals than can be answered, the last waits for all before it."""
    space = SidSpace((4, 4))
    model = random_model(SHAPES["tiny"], 8, device=torch.device("cpu"), dtype=torch.float32, seed=0)
    trie = Trie.build(space, np.array([[0, 1], [1, 2]], dtype=np.int32))
    tokens = [np.arange(1024, 1028), np.arange(1028, 1032)]
    engine = Engine(model, trie, tokens, EngineConfig(device="cpu", max_rows=1))
    found = open_loop(engine, lambda number: Request(tokens=(1, 2, 3), beam=1), rate=1e5, seconds=3e-4)
    assert found.refused == 0
    assert found.p99_ms > 1.5 * found.p50_ms
    assert found.answered < found.rate


def test_the_verb_prints_json() -> None:
    arguments = ["bench", "engine", "--shape", "tiny", "--catalog-items", "50", "--input", "8", "--beam", "3"]
    result = CliRunner().invoke(app, [*arguments, "--batch", "2", "--seconds", "0.05", "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["points"][0]["requests_per_s"] > 0


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be measured"):
        EngineBench(precisions=("fp64",))
