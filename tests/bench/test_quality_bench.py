"""The quality gate on a trained model: float32 is the reference, int8 is near it, and what is off is told."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from genrecall.bench.quality import compare, gate
from genrecall.cli.main import app
from genrecall.engine.host.request import Answer


def test_a_trained_model_passes_in_float32(run):
    paths = ["--bundle", str(run / "bundle"), "--catalog", str(run / "catalog")]
    arguments = ["bench", "quality", *paths, "--cases", "6", "--beam", "8", "--precision", "fp32,int8,bf16"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["reference"] == "transformers, float32"
    assert found["fp32"]["top_1_or_tie"] == found["fp32"]["overlap"] == 1
    assert found["fp32"]["error"] < 1e-4 < found["int8"]["error"] < 0.5
    assert found["int8"]["overlap"] > 0.7
    assert found["fp32"]["recall"] == found["float32"]["recall"]
    assert set(found["passed"].values()) == {True}
    assert len(found["passed"]) == 4


def answer(sids: list[tuple[int, ...]], scores: list[float]) -> Answer:
    return Answer(sids=sids, scores=scores, short=False)


def test_what_is_off_is_told():
    exact = [answer([(1,), (2,), (3,)], [-1.0, -1.01, -4.0])] * 2
    found = compare([answer([(2,), (1,), (4,)], [-1.0, -1.1, -3.0]), answer([(3,), (4,), (5,)], [-1, -2, -3])],
                    exact, [(3,), (3,)])  # fmt: skip
    assert found["top_1"] == 0
    assert found["top_1_or_tie"] == 0.5
    assert found["overlap"] == (2 / 3 + 1 / 3) / 2
    assert found["error"] == pytest.approx((0.01 + 0.1 + 3.0) / 3)
    assert found["recall"] == {"@10": 0.5, "@beam": 0.5}
    good = {"top_1_or_tie": 1.0, "overlap": 0.95, "error": 0.01}
    assert list(gate({"bf16": found, "transformers bf16": good}).values()) == [False, False, False]
    assert gate({"fp32": found}) == {"fp32 answers as the reference": False}
