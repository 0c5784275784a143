"""The benchmark's vectors are clustered, and every shape is quantised to distinct SIDs."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from genrecall.bench.sid import write_vectors
from genrecall.cli.main import app
from genrecall.errors import ConfigError


def test_vectors_are_clustered_and_seeded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_vectors(tmp_path / f"{name}.npy", 800, 32, seed=1)
    rows = np.load(tmp_path / "a.npy")
    assert rows.dtype == np.float16
    assert np.array_equal(rows, np.load(tmp_path / "b.npy"))
    rows = rows.astype(np.float32)
    gaps = np.square(rows[:, None] - rows[None]).sum(2) + 1e9 * np.eye(len(rows))
    assert gaps.min(1).mean() < 0.5 * np.square(rows - rows.mean(0)).sum(1).mean()


def test_the_verb_measures_every_shape() -> None:
    arguments = ["bench", "sid", "--items", "300", "--dims", "16", "--shape", "2x32", "--shape", "3x8"]
    result = CliRunner().invoke(app, [*arguments, "--quantizer", "rq_kmeans", "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [run["capacity"] for run in found["runs"]] == [1024, 512]
    assert all(run["shared_after"] == 0 < run["shared_before"] for run in found["runs"])
    assert {"fit", "encode", "collisions", "report"} == set(found["runs"][0]["seconds"])
    assert "synthetic" in found["vectors"]


def test_a_shape_must_be_two_numbers() -> None:
    with pytest.raises(ConfigError, match="shape"):
        CliRunner().invoke(app, ["bench", "sid", "--shape", "4*256"], catch_exceptions=False)
