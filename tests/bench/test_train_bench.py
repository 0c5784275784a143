"""The training benchmark times real steps."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from genrecall.bench.shapes import shape_of
from genrecall.bench.train import TrainBench, measure
from genrecall.cli.main import app
from genrecall.errors import ConfigError


def test_steps_are_timed() -> None:
    bench = TrainBench(shape="tiny", history=6, items=50, levels=2, codes=8, batch_tokens=256, steps=2, device="cpu")
    found = measure(bench)
    assert found is not None
    shape = shape_of("tiny")
    assert found["linear_parameters"] == shape.layers * sum(a * b for a, b in shape.matrices)
    assert found["processes"] == 1
    assert not found["sharded"]
    assert 0 < found["tokens_per_s"] * found["step_s"] <= 256
    assert found["flops_per_s"] == pytest.approx(6 * found["linear_parameters"] * found["tokens_per_s"])
    assert found["share_of_peak"] is None


def test_the_verb_prints_json_and_keeps_it(tmp_path) -> None:
    arguments = ["bench", "train", "--shape", "tiny", "--history", "4", "--batch-tokens", "128", "--steps", "1"]
    arguments += ["--device", "cpu", "--json", "--out", str(tmp_path / "found.json")]
    for layers in ("1", "1", "2"):
        result = CliRunner().invoke(app, [*arguments, "--layers", layers])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["targets_per_s"] > 0
    one, two = json.loads((tmp_path / "found.json").read_text())["cases"].values()
    assert found == two
    assert two["linear_parameters"] == 2 * one["linear_parameters"]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be measured"):
        TrainBench(history=1)
    with pytest.raises(ConfigError, match="cannot be measured"):
        TrainBench(shape="tiny", layers=99)
