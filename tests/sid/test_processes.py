"""Two processes of torchrun fit half of the points each and hold the codebooks of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genrecall.processes import _leave, is_main, rank
from genrecall.sid.behaviour import Behaviour
from genrecall.sid.build import quantize
from genrecall.sid.config import SidConfig
from genrecall.sid.fsq import FsqConfig
from genrecall.sid.kmeans import lloyd
from genrecall.sid.rq_kmeans import RqKMeansConfig
from genrecall.sid.rq_vae import RqVaeConfig
from tests.sid.clouds import cloud

ROOT = Path(__file__).parents[2]
SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.sid import test_processes
test_processes.play(sys.argv[1])
"""
ITEMS = 303  # an odd number, and odd batches: shares differ in size
VAE = RqVaeConfig(
    hidden=(16,), latent=8, epochs=4, min_steps=1, batch=61, kmeans_steps=4, revive_below=4.0, decay=0.7, device="cpu"
)
ALIGNED = RqVaeConfig(
    hidden=(16,), latent=8, epochs=4, min_steps=1, batch=61, kmeans_steps=4, updates="gradient", alignment_weight=0.5,
    revive_below=4.0, decay=0.7, device="cpu",
)  # fmt: skip
CONFIGS = {
    "k-means": SidConfig(levels=3, codes=40, quantizer="rq_kmeans", collisions="keep"),
    "balanced": SidConfig(
        levels=2, codes=9, quantizer="rq_kmeans", collisions="keep", rq_kmeans=RqKMeansConfig(balance=1.2)
    ),
    "averages": SidConfig(levels=2, codes=12, rq_vae=VAE, collisions="keep"),
    "gradients, aligned": SidConfig(levels=2, codes=12, rq_vae=ALIGNED, collisions="keep"),
    "fsq": SidConfig(
        levels=2, codes=12, quantizer="fsq", fsq=FsqConfig(epochs=3, batch=61, device="cpu"), collisions="keep"
    ),
    "product codes": SidConfig(levels=2, codes=12, quantizer="pq", collisions="keep"),
}
DEAD = "dead centres"
"""Two centres of Lloyd's steps have no points and move to the worst ones of both processes."""


def fitted(name: str) -> dict[str, torch.Tensor]:
    """All that defines the quantiser, and the codes of all items."""
    if name == DEAD:
        points = torch.from_numpy(cloud(items=ITEMS))
        return {"centres": lloyd(points, torch.cat([points[:4], points[:2] + 1e4]), steps=3)}
    rng = np.random.default_rng(0)
    known = rng.random((ITEMS, 1)) < 0.8  # the others have no behaviour
    behaviour = Behaviour(matrix=(rng.normal(size=(ITEMS, 5)) * known).astype(np.float32), identity={})
    made = quantize(cloud(items=ITEMS), CONFIGS[name].on("cpu"), behaviour)
    return {**made.quantizer.state(), "codes": torch.from_numpy(made.codes)}


def play(directory: str) -> None:
    for name in (*CONFIGS, DEAD):
        found = {key: tensor.contiguous() for key, tensor in fitted(name).items()}
        save_file(found, Path(directory) / f"{name}{'' if is_main() else ' of the other'}.safetensors")
    _leave()  # as at exit
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    (Path(directory) / f"threads of {rank()}").write_text("\n".join(threads))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("two")
    (directory / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, str(directory / "script.py"), str(directory)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CONFIGS, DEAD])
def test_two_processes_fit_what_one_does(name: str, two: Path) -> None:
    expected, found = fitted(name), load_file(two / f"{name}.safetensors")
    other = load_file(two / f"{name} of the other.safetensors")
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], other[key]), "every process holds the same bits"
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_no_thread_of_the_group_is_left_when_the_interpreter_ends(process: int, two: Path) -> None:
    """One that still let go of a tensor then took the process with it, now and then: ``terminate called``."""
    threads = (two / f"threads of {process}").read_text().splitlines()
    assert "python" in threads
    assert not [name for name in threads if "gloo" in name]
