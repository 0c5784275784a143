"""`genrecall train`: phases, mixtures and processes as they are typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from genrecall.artifacts import open_artifact
from genrecall.cli.main import app
from genrecall.errors import ConfigError

runner = CliRunner()
QUICK = ["--size", "tiny", "--epochs", "0.2", "--device", "cpu", "--batch-tokens", "4096", "--json"]


def test_two_phases_with_given_queries(run: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"query_id": ["x", "y"], "query": ["gift for her", "nothing"]}), tmp_path / "q.parquet")
    pq.write_table(pa.table({"query_id": ["x", "x"], "item_id": ["i1", "i2"]}), tmp_path / "p.parquet")
    files = ["--train-queries", str(tmp_path / "q.parquet"), "--train-query-items", str(tmp_path / "p.parquet")]
    mixtures = ["--align", "1", "--align-tasks", "query_to_sid=2,title_to_sid", "--tasks", "next_item=3,search=1"]
    arguments = ["train", "--run", str(run), "--out", str(tmp_path / "model"), *QUICK, *mixtures, *files]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["mixture"]["search"]["share"] == pytest.approx(0.25, abs=0.01)
    first = open_artifact(tmp_path / "model-aligned").manifest
    assert first.config["train"]["mixture"]["shares"] == {"query_to_sid": 2.0, "title_to_sid": 1.0}
    assert first.facts["questions"] == {"query_to_sid": 42, "title_to_sid": 40}  # two of the queries' pairs
    assert first.facts["epochs"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--align-tasks", "title_to_sid"], "means nothing without another"),
        (["--align", "1", "--train-queries", "q"], "means nothing without another"),
        (["--train-queries", "q", "--train-query-items", "p"], "means nothing without another"),
        (["--align", "1", "--align-tasks", "titles=1"], "no such training task"),
        (["--backbone", "b", "--lora", "8", "--shard"], "cannot be sharded"),
    ],
)
def test_options_that_cannot_be(run: Path, arguments: list[str], words: str) -> None:
    result = runner.invoke(app, ["train", "--run", str(run), *arguments])
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [pytest.param([], marks=pytest.mark.ranks), ["--shard"]], ids=["copies", "shards"])
def test_under_torchrun_one_process_speaks(run: Path, tmp_path: Path, shard: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    # torchrun takes --run for an abbreviation of its own --run-path
    arguments = ["train", "-r", str(run), "--out", str(tmp_path / "model"), *QUICK, "--align", "0.2", *shard]
    done = subprocess.run(
        [*command, "-m", "genrecall", *arguments],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["digest"] == open_artifact(tmp_path / "model").digest
    assert done.stderr.count("training ") == 2  # one line a phase
