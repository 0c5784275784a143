import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from genrecall import artifacts
from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError, DataError
from genrecall.model.dropout import drop
from genrecall.model.lora import LoraSettings
from genrecall.model.weights import load_model
from genrecall.prompt.prompt import PromptBuilder, read_settings
from genrecall.train.checkpoint import set_aside
from genrecall.train.config import TrainConfig
from genrecall.train.distil import DistilConfig, Teacher
from genrecall.train.dropout import residual_dropout
from genrecall.train.loop import artifact_config, train
from genrecall.train.run import Run

QUICK = {"epochs": 3.0, "batch_tokens": 500, "log_every": 1, "dropout": 0.2, "learning_rate": 1e-2, "device": "cpu"}


class Killed(BaseException):
    """Stands for a kill in the middle of a step."""


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def go(world, out, validate=None, template="compact", **config):
    settings = TrainConfig(**{**QUICK, **config})
    return train(
        world.model(), world.prompts(template), world.histories, out=out, config=settings,
        profile_of=world.profile_of, validate=validate, parents={"sid": "sha256:0"},
        teacher=world.teacher() if settings.distil else None,
    )  # fmt: skip


def test_the_artifact_is_complete_and_the_loss_falls(world, tmp_path):
    result = go(world, tmp_path / "model", epochs=8)
    artifact = artifacts.open_artifact(tmp_path / "model", kind="model")
    assert artifact.digest == result.digest
    names = {"config.json", "model.safetensors", "tokenizer.json", "vocabulary.json", "prompt.json", "metrics.jsonl"}
    assert names <= set(artifact.manifest.files)
    assert artifact.manifest.parents == {"sid": "sha256:0"}
    losses = [line["loss"] for line in lines(tmp_path / "model")]
    assert losses[-1] < 0.75 * losses[0]
    assert (result.stopped, result.epochs) == ("epochs", 8.0)
    prompts = PromptBuilder.load(tmp_path / "model", world.sids)
    assert prompts.settings() == world.prompts().settings()
    assert read_settings(tmp_path / "model")["normalise"] == "trie"
    model = load_model(tmp_path / "model")
    assert not model.training
    assert model.get_input_embeddings().weight.shape[0] == prompts.vocabulary.size
    assert sorted(p.name for p in (tmp_path / "model.work").iterdir()) == ["metrics.jsonl", "tensorboard"]
    config = artifact_config(TrainConfig(**{**QUICK, "epochs": 8}), world.prompts())
    assert artifacts.is_current(tmp_path / "model", kind="model", config=config, parents={"sid": "sha256:0"})


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"optimizer": "adamw"}, marks=pytest.mark.slow),
        {"optimizer": "muon", "ema_decay": 0.9, "distil": DistilConfig()},
    ],
    ids=lambda other: other["optimizer"],
)
def test_a_killed_run_resumes_bit_by_bit(world, tmp_path, monkeypatch, other):
    figures = itertools.count(1)
    config = {
        "checkpoint_every_steps": 3,
        "accumulate": 2,
        "reshuffle_ties": True,
        "log_every": 2,
        "epochs": 6,
        **other,
    }
    whole = go(world, tmp_path / "whole", validate=lambda model: 1 / next(figures), **config)
    steps = itertools.count()
    original = Run.step

    def step(self, progress):
        if next(steps) == 7:  # a step after the second checkpoint, with unlogged loss on the books
            raise Killed
        return original(self, progress)

    again = itertools.count(1)
    monkeypatch.setattr(Run, "step", step)
    with pytest.raises(Killed):
        go(world, tmp_path / "parts", validate=lambda model: 1 / next(again), **config)
    # Settings that make no other model do not cost the checkpoint.
    config |= {"checkpoint_every_steps": 5, "checkpoint_every_s": 9.0, "device": "auto"}
    monkeypatch.setattr("genrecall.hardware.pick_device", lambda name: torch.device("cpu"))
    parts = go(world, tmp_path / "parts", validate=lambda model: 1 / next(again), **config)
    assert parts.steps == whole.steps > 8
    assert next(steps) == 8 + whole.steps - 6  # 7 steps and a killed one, then all after the checkpoint at 6
    first, second = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert [line.get("loss") for line in first] == [line.get("loss") for line in second]
    a, b = (load_model(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_equal_seeds_give_equal_artifacts_and_other_seeds_do_not(world, tmp_path):
    digests = [go(world, tmp_path / name, seed=seed).digest for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("distil", [None, DistilConfig()], ids=["codes", "distil"])
def test_accumulation_is_exactly_a_larger_batch(world, distil):
    """One step of four small batches moves the weights as one step of one large batch."""
    from genrecall.index.trie import Trie
    from genrecall.train.checkpoint import Progress
    from genrecall.train.data import Examples
    from genrecall.train.supervised import Targets

    gradients = []
    for budget, accumulate in ((100_000, 1), (400, 1000)):
        config = TrainConfig(
            **{
                **QUICK,
                "dropout": 0.0,
                "precision": "float32",
                "batch_tokens": budget,
                "accumulate": accumulate,
                "clip": 0.0,
            }
        )
        examples = Examples(world.prompts(), world.histories, None, config)
        trie = Trie.build(world.vocabulary.space, world.sids)
        targets = Targets(trie, world.sids, "trie", Teacher(world.teacher(), trie, distil) if distil else None)
        run = Run(world.model(), examples, targets, config)
        run.plan(0)
        run.optimizers = []
        assert run.steps_per_epoch == 1
        run.step(Progress())
        gradients.append(torch.cat([p.grad.flatten() for p in run.parameters.values()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_the_best_epoch_is_kept_and_patience_ends_the_run(world, tmp_path):
    figures = iter([0.1, 0.5, 0.3, 0.2, 0.9])
    seen = []

    def validate(model):
        assert not model.training
        torch.manual_seed(123)  # a careless metric must not disturb the run
        seen.append(model.get_input_embeddings().weight.detach().clone())
        return next(figures)

    result = go(world, tmp_path / "model", validate=validate, epochs=9, patience=2)
    assert (result.best, result.best_epoch, result.stopped) == (0.5, 2.0, "patience")
    kept = load_model(tmp_path / "model").get_input_embeddings().weight
    assert torch.equal(kept, seen[1])
    assert not torch.equal(kept, seen[2])


def test_a_time_limit_ends_the_cosine_too(world, tmp_path):
    began = time.monotonic()
    result = go(world, tmp_path / "model", epochs=1e6, max_seconds=0.4, checkpoint_every_s=0)
    assert result.stopped == "time"
    assert time.monotonic() - began < 20
    assert lines(tmp_path / "model")[-1]["lr"] == pytest.approx(QUICK["learning_rate"] * 0.02)


def test_an_interrupt_leaves_a_checkpoint(world, tmp_path, monkeypatch):
    original = Run.step

    def step(self, progress):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, progress)

    monkeypatch.setattr(Run, "step", step)
    with pytest.raises(KeyboardInterrupt):
        go(world, tmp_path / "model")
    assert json.loads((tmp_path / "model.work/checkpoint/progress.json").read_text())["step"] == 5
    monkeypatch.setattr(Run, "step", original)
    assert go(world, tmp_path / "model").stopped == "epochs"


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_not_used(world, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "step", lambda self, progress: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        go(world, tmp_path / "model", seed=3)
    monkeypatch.undo()
    (tmp_path / "model.work" / "seed").write_text("3")
    assert go(world, tmp_path / "model", seed=4).digest == go(world, tmp_path / "fresh", seed=4).digest
    assert (tmp_path / "model.work.old" / "seed").exists()
    assert not (tmp_path / "model.work" / "seed").exists()


def test_the_work_of_another_run_is_kept_once(tmp_path, capsys):
    work = tmp_path / "model.work"
    for text in ("one", "two"):
        work.mkdir()
        (work / "metrics.jsonl").write_text(text)
        set_aside(work)
    assert not work.exists()
    assert (tmp_path / "model.work.old" / "metrics.jsonl").read_text() == "two"
    assert "kept as" in capsys.readouterr().err


def test_only_what_makes_another_model_is_its_configuration(world):
    def config(**changed):
        return artifact_config(TrainConfig(**{**QUICK, **changed}), world.prompts())

    same = {"device": "auto", "log_every": 7, "checkpoint_every_s": 1.0, "checkpoint_every_steps": 9}
    assert config() == config(**same)
    assert config() != config(seed=1)
    assert config() != config(precision="float32")


@pytest.mark.slow
def test_templates_with_a_tail_learn_too(world, tmp_path):
    go(world, tmp_path / "model", template="zh", epochs=4, batch_tokens=1500)
    losses = [line["loss"] for line in lines(tmp_path / "model")]
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.slow
def test_lora_trains_and_leaves_a_plain_model(world, tmp_path):
    pytest.importorskip("peft")
    before = world.model().state_dict()
    seen = []

    def validate(model):
        seen.append(type(model).__name__)
        return 1.0

    lora = LoraSettings(rank=4, dropout=0.0)
    go(world, tmp_path / "model", validate=validate, lora=lora, epochs=6)
    losses = [line["loss"] for line in lines(tmp_path / "model") if "loss" in line]
    assert losses[-1] < 0.95 * losses[0]
    assert set(seen) == {"Qwen3ForCausalLM"}
    after = load_model(tmp_path / "model").state_dict()
    assert after.keys() == before.keys()
    first = world.vocabulary.first_sid_token
    assert torch.equal(after["model.embed_tokens.weight"][:first], before["model.embed_tokens.weight"][:first])


def test_nothing_to_train_on_and_a_diverging_run_are_said(world, tmp_path):
    empty = Histories.from_lists([[], []])
    with pytest.raises(DataError, match="nothing to train on"):
        train(world.model(), world.prompts(), empty, out=tmp_path / "m", config=TrainConfig(**QUICK))
    with pytest.raises(ConfigError, match="not a number"):
        go(world, tmp_path / "m", learning_rate=1e20, clip=0.0)
    for wrong in (
        {"epochs": 0}, {"precision": "int3"}, {"normalise": "all"}, {"dropout": 1.0}, {"patience": -1}, {"clip": -0.1},
        {"final_rate": 1.1}, {"final_rate": -0.1}, {"weight_decay": -1e-3},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="out of range"):
            TrainConfig(**wrong)


def test_dropout_keeps_the_mean_and_leaves_no_trace(world):
    torch.manual_seed(0)
    dropped = drop(torch.ones(101, 333), 0.3)
    assert dropped.mean() == pytest.approx(1, abs=0.02)
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    model, tokens = world.model(), torch.arange(6)[None]
    names = list(model.state_dict())
    with residual_dropout(model, 0.5), torch.no_grad():
        assert list(model.state_dict()) == names
        trained = model.train()(tokens).logits
        plain = model.eval()(tokens).logits
    with torch.no_grad():
        assert torch.equal(model.train()(tokens).logits, plain)
    assert not torch.equal(trained, plain)


@pytest.mark.slow
def test_twenty_users_are_learnt_by_heart(world, tmp_path):
    """Golden: a tiny model can hold what it has seen; what is left is the first item, which nothing tells."""
    few = world.histories.take(np.arange(20))
    config = TrainConfig(
        **{**QUICK, "dropout": 0.0, "epochs": 150, "weight_decay": 0.0, "log_every": 10, "overlap": 0.9}
    )
    train(world.model(), world.prompts(max_items=20), few, out=tmp_path / "model", config=config)
    assert lines(tmp_path / "model")[-1]["loss"] < 0.55


@pytest.mark.slow
def test_kill_9_in_the_middle_and_the_same_loss_curve(tmp_path):
    script = f"""
import sys, pathlib
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.train.conftest import World
from tests.train.test_loop import go
go(World(), pathlib.Path(sys.argv[1]), epochs=12, checkpoint_every_steps=2)
"""
    whole = subprocess.run([sys.executable, "-c", script, str(tmp_path / "whole")], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    victim = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "parts")], stderr=subprocess.DEVNULL)
    journal = tmp_path / "parts.work" / "metrics.jsonl"
    while not journal.exists() or journal.read_text().count("\n") < 9:
        assert victim.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    assert not (tmp_path / "parts").exists()
    resumed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "parts")], capture_output=True, text=True)
    assert "going on from the checkpoint" in resumed.stderr
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    digests = [artifacts.open_artifact(tmp_path / name).digest for name in ("whole", "parts")]
    assert digests[0] == digests[1]
