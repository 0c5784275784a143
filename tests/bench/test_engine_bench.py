"""The benchmark measures what it says: both searches run and are told apart."""

import json

from typer.testing import CliRunner

from genrecall.bench.engine import EngineBench, measure
from genrecall.cli.main import app


def test_both_searches_are_timed() -> None:
    point = EngineBench(size="tiny", items=50, levels=2, codes=8, prompt=8, beam=3, requests=2, repeats=1, device="cpu")
    found = measure(point)
    assert found["engine_requests_per_s"] > 0
    assert found["transformers_requests_per_s"] > 0
    assert found["ratio"] == found["engine_requests_per_s"] / found["transformers_requests_per_s"]
    assert found["hardware"]["packages"]["torch"]


def test_the_verb_prints_json() -> None:
    arguments = [
        "bench",
        "engine",
        "--size",
        "tiny",
        "--items",
        "50",
        "--prompt",
        "8",
        "--beam",
        "3",
        "--requests",
        "2",
    ]
    result = CliRunner().invoke(app, [*arguments, "--repeats", "1", "--alone", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["engine_requests_per_s"] > 0
