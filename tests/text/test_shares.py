"""Two processes of torchrun embed half of the texts each and hold what one would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.text.conftest import WORDS, LetterEncoder, make_catalog, make_items

from genrecall.processes import gathered, share
from genrecall.text.embed import embed_catalog
from genrecall.text.vectors import Vectors

ROOT = Path(__file__).parents[2]
TITLES = [f"{WORDS[i % 7]} {WORDS[i * i % 5]} {'x' * i}" for i in range(11)]  # an odd number: shares differ in size
SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.text import test_shares
test_shares.play(sys.argv[1])
"""


def play(directory: str) -> None:
    encoder = LetterEncoder()
    made = embed_catalog(make_catalog(make_items(title=TITLES)), out=Path(directory) / "vectors", encoder=encoder)
    seen = {"texts": sum(map(len, encoder.calls)), "sum": float(made.matrix.sum()), "digest": made.digest}
    (Path(directory) / f"told{os.environ['RANK']}.json").write_text(json.dumps(seen))


def test_alone_the_share_is_everything() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(gathered(rows[share()], 3), rows)


@pytest.mark.slow
def test_two_processes_embed_half_each(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads((tmp_path / f"told{rank}.json").read_text()) for rank in range(2)]
    assert [one["texts"] for one in told] == [6, 5]
    expected = embed_catalog(make_catalog(make_items(title=TITLES)), out=tmp_path / "alone", encoder=LetterEncoder())
    found = Vectors.load(tmp_path / "vectors")
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    assert {one["digest"] for one in told} == {found.digest} == {expected.digest}
    assert {one["sum"] for one in told} == {float(expected.matrix.sum())}
