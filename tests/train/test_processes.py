"""Two processes on gloo: copies of the model (DDP) and one model in two parts (FSDP2), interrupted and resumed."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genrecall.errors import ConfigError
from genrecall.model.lora import LoraSettings
from genrecall.model.weights import load_model
from genrecall.train.config import TrainConfig
from genrecall.train.sharding import read_parts

ROOT = Path(__file__).parents[2]
LAST_STEP = 7

# Both processes run this: argument 1 is the directory, the others are runs: NAME, NAME! for one that is killed together
# with its processes, NAME? for one that ends by an exception and leaves them alive.
SCRIPT = f"""
import atexit, os, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.train import test_processes
from tests.train.conftest import World
atexit.register(test_processes.note_threads, Path(sys.argv[1]))  # the first is called last
test_processes.play(World(), Path(sys.argv[1]), sys.argv[2:])
"""


class Interrupted(BaseException):
    """Stands for a kill in the middle of a step."""


def settings_of(name: str) -> TrainConfig:
    """``qwen2`` runs have no dropout, so that their losses do not depend on how many processes there are."""
    golden = name.startswith("qwen2")
    return TrainConfig(
        epochs=5, batch_tokens=400, accumulate=1 if golden else 2, log_every=2, dropout=0.0 if golden else 0.2,
        learning_rate=1e-2, optimizer="adamw", ema_decay=0.9, device="cpu", precision="float32", checkpoint_every_s=0,
        checkpoint_every_steps=3, shard=golden or name.startswith("shard"), gradient_checkpointing=golden,
        stored_layers=int(golden),
    )  # fmt: skip


def model_of(world, name: str):
    """A tiny Qwen2 with fewer KV heads than heads, or the world's own model."""
    if not name.startswith("qwen2"):
        return world.model()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    rows = world.model().config.vocab_size
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=rows, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
        )
    )  # fmt: skip


def play(world, directory: Path, names: list[str]) -> None:
    """Train one run after another in this process; a run's name says whether it is sharded."""
    from genrecall.train.loop import train
    from genrecall.train.run import Run

    original = Run.step
    for name in names:
        settings = settings_of(name)

        def step(self, progress, end=name[-1]):
            if progress.step == LAST_STEP and end == "!":
                torch.distributed.barrier()  # the other's part of the checkpoint is published too
                os._exit(9)  # as `kill -9`: nothing is flushed, nobody is told
            if progress.step == LAST_STEP and end == "?":
                raise Interrupted
            return original(self, progress)

        Run.step = step
        with contextlib.suppress(Interrupted):
            train(
                model_of(world, name), world.prompts(), world.histories, out=directory / name.rstrip("!?"),
                config=settings, profile_of=world.profile_of,
                validate=lambda model: float(model.get_input_embeddings().weight.abs().sum()),
            )  # fmt: skip


def note_threads(directory: Path) -> None:
    """Write down the names of the threads of this process, where Linux lists them."""
    threads = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
    (directory / f"threads of {os.environ['RANK']}").write_text("\n".join(threads))


def launch(directory: Path, *names: str) -> subprocess.CompletedProcess[str]:
    script = directory / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    return subprocess.run(
        [*command, str(script), str(directory), *names],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip


def curve(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path).state_dict()


pytestmark = pytest.mark.xdist_group("processes")
"""They share one fixture that takes a minute: one worker runs them all."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two whole runs, two that were killed at step 7 and went on from step 6, and one by a single process."""
    directory = tmp_path_factory.mktemp("processes")
    first = launch(directory, "copies", "shards", "qwen2", "qwen2_parts?", "shards_parts!")
    assert first.returncode != 0
    assert (directory / "copies" / "manifest.json").exists(), first.stderr
    assert (directory / "shards" / "manifest.json").exists(), first.stderr
    second = launch(directory, "shards_parts", "copies_parts?", "copies_parts")
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("going on from the checkpoint at step 6") == 4, second.stderr  # two runs, two processes
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["copies", "shards"])
def test_a_killed_run_of_two_processes_resumes(runs, kind):
    whole, parts = curve(runs / kind), curve(runs / f"{kind}_parts")
    assert len(whole) == len(parts) > LAST_STEP // 2
    for first, second in zip(whole, parts, strict=True):
        # The loss since the last line is summed in another order after a resume.
        assert first.pop("loss", 0) == pytest.approx(second.pop("loss", 0), rel=1e-12)
        assert first == second
    a, b = weights(runs / kind), weights(runs / f"{kind}_parts")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_shards_learn_what_copies_learn(runs):
    """The same gradients by two ways of exchanging them; the loss curves part by rounding alone."""
    copies, shards = (
        np.array([line["loss"] for line in curve(runs / kind) if "loss" in line]) for kind in ("copies", "shards")
    )
    np.testing.assert_allclose(copies, shards, rtol=1e-4)
    assert copies[-1] < 0.8 * copies[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed by Linux")
@pytest.mark.parametrize("process", [0, 1])
def test_no_thread_of_a_group_is_left_when_the_interpreter_ends(runs, process):
    """One that still let go of a tensor then took the process with it, now and then: ``terminate called``."""
    threads = (runs / f"threads of {process}").read_text().splitlines()
    assert any(name.startswith("python") for name in threads)
    assert not [name for name in threads if "gloo" in name]


def alone(directory: Path, name: str, settings: TrainConfig) -> None:
    """The same run by this process alone."""
    from tests.train.conftest import World

    from genrecall.train.loop import train

    world = World()
    train(
        model_of(world, name), world.prompts(), world.histories, out=directory / name, config=settings,
        profile_of=world.profile_of,
        validate=lambda model: float(model.get_input_embeddings().weight.abs().sum()),
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(runs):
    """FSDP2 with activations computed twice against plain training: the same batches, the same curve."""
    alone(runs, "qwen2_alone", replace(settings_of("qwen2"), accumulate=2, shard=False, gradient_checkpointing=False))
    two, one = (
        np.array([line["loss"] for line in curve(runs / name) if "loss" in line]) for name in ("qwen2", "qwen2_alone")
    )
    np.testing.assert_allclose(two, one, rtol=1e-4)
    assert one[-1] < 0.8 * one[0]


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_stopped(runs, capsys):
    """Every process wrote its part alone; weights, average and moments come back whole."""
    parts = sorted((runs / "qwen2_parts.work/checkpoint/shards").iterdir())
    assert len(parts) == 2
    whole = read_parts(parts[0].parent, {})
    moments = {name: tensor for name, tensor in whole.items() if name.endswith("exp_avg_sq")}
    assert len(moments) == len([name for name in whole if name.startswith("weight/")]) > 10
    assert all(tensor.min() >= 0 and tensor.max() > 0 for tensor in moments.values())
    alone(runs, "qwen2_parts", settings_of("qwen2"))
    assert "going on from the checkpoint at step 6" in capsys.readouterr().err
    losses = [line["loss"] for line in curve(runs / "qwen2_parts") if "loss" in line]
    before = [line["loss"] for line in curve(runs / "qwen2") if "loss" in line]
    np.testing.assert_allclose(losses[:3], before[:3], rtol=1e-4)
    assert losses[-1] < 0.8 * losses[0]


def test_lora_is_not_sharded():
    with pytest.raises(ConfigError, match="cannot be sharded"):
        TrainConfig(shard=True, lora=LoraSettings())
