import itertools
import json
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.model.sasrec import Sasrec
from genrecall.model.sequence import SequenceModule
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.fit import fit
from genrecall.train.sequence.optimizers import Muon, orthogonal
from genrecall.train.sequence.steps import Steps

ITEMS = 24
QUICK = {"window": 6, "lengths": (3,), "batch_tokens": 48, "learning_rate": 5e-3, "log_every": 1, "device": "cpu"}


class Killed(BaseException):
    """Stands for a kill in the middle of a run."""


@pytest.fixture(scope="module")
def histories() -> Histories:
    """Everybody walks upwards around a ring."""
    rng = np.random.default_rng(0)
    rows = [
        [int((start + step) % ITEMS) for step in range(rng.integers(1, 14))] for start in rng.integers(0, ITEMS, 40)
    ]
    return Histories.from_lists(rows)


def module(dropout: float = 0.1) -> Sasrec:
    torch.manual_seed(1)
    return Sasrec(ITEMS, width=16, blocks=1, heads=2, window=6, dropout=dropout)


def lines(work):
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_pattern_is_learnt(histories, tmp_path, optimizer):
    model = module()
    config = SequenceConfig(**{**QUICK, "learning_rate": 2e-2}, epochs=20, optimizer=optimizer)
    result = fit(model, histories, config, work=tmp_path / "w")
    losses = [line["loss"] for line in lines(tmp_path / "w")]
    assert losses[0] == pytest.approx(np.log(ITEMS), rel=0.1)
    assert np.mean(losses[-5:]) < 0.3
    assert (result.stopped, result.epochs, result.steps) == ("epochs", 20.0, len(losses))
    assert result.parameters == sum(p.numel() for p in model.parameters())
    assert sum(line["events"] for line in lines(tmp_path / "w")) == 20 * int((histories.lengths - 1).clip(0).sum())
    assert not model.training


@pytest.mark.parametrize("other", [{"optimizer": "adamw"}, {"optimizer": "muon", "ema_decay": 0.9}])
def test_a_killed_run_resumes_bit_by_bit(histories, tmp_path, monkeypatch, other):
    config = SequenceConfig(**{**QUICK, "log_every": 3, **other}, epochs=4, eval_every=1, checkpoint_every_steps=5)

    def go(name, **changed):
        figures = itertools.count(1)
        model = module()
        settings = SequenceConfig(**{**vars(config), **changed})
        return model, fit(model, histories, settings, validate=lambda m: 1 / next(figures), work=tmp_path / name)

    first, whole = go("whole")
    steps, original = itertools.count(1), Steps.run

    def run(self, *arguments, **named):
        if next(steps) == 13:
            raise Killed
        return original(self, *arguments, **named)

    monkeypatch.setattr(Steps, "run", run)
    with pytest.raises(Killed):
        go("parts")
    second, parts = go("parts", checkpoint_every_steps=7)
    assert next(steps) - 1 == 13 + whole.steps - 10  # what came after the checkpoint at step 10 is done again
    assert (parts.steps, parts.best_epoch, parts.best) == (whole.steps, whole.best_epoch, whole.best)
    a, b = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert [line.get("loss") for line in a] == [line.get("loss") for line in b]
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in second.state_dict().items())
    third, again = go("parts")  # a finished run gives its weights at once
    assert next(steps) - 1 == 14 + whole.steps - 10
    assert again.stopped == "epochs"
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in third.state_dict().items())


def test_the_best_weights_are_kept_and_patience_ends_the_run(histories):
    figures, seen = iter([0.1, 0.5, 0.3, 0.2, 0.9]), []

    def validate(model):
        assert not model.training
        torch.manual_seed(7)  # a careless metric must not disturb the run
        seen.append(model.items.weight.detach().clone())
        return next(figures)

    model = module()
    result = fit(model, histories, SequenceConfig(**QUICK, epochs=9, eval_every=1, patience=2), validate=validate)
    assert (result.best, result.best_epoch, result.stopped) == (0.5, 2.0, "patience")
    assert [value for _, value in result.validations] == [0.1, 0.5, 0.3, 0.2]
    assert torch.equal(model.items.weight, seen[1])
    assert not torch.equal(model.items.weight, seen[2])


def test_validation_and_the_caller_leave_no_trace(histories):
    def losses(validate):
        torch.manual_seed(9)
        model = module(dropout=0.5)
        before = torch.get_rng_state()
        fit(model, histories, SequenceConfig(**QUICK, epochs=2, eval_every=0.5), validate=validate)
        assert torch.equal(before, torch.get_rng_state())
        return model.items.weight.detach().clone()

    assert torch.equal(losses(None), losses(lambda m: float(torch.rand(()) > 2) + next(clock)))


clock = itertools.count()


def test_a_time_limit_ends_the_cosine_too(histories, tmp_path):
    result = fit(module(), histories, SequenceConfig(**QUICK, epochs=1e6, max_seconds=0.3), work=tmp_path / "w")
    assert result.stopped == "time"
    assert lines(tmp_path / "w")[-1]["lr"] == pytest.approx(QUICK["learning_rate"] * 0.02)


def test_an_interrupt_leaves_a_checkpoint(histories, tmp_path, monkeypatch):
    original = Steps.run

    def run(self, *arguments, step, **named):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments, step=step, **named)

    monkeypatch.setattr(Steps, "run", run)
    with pytest.raises(KeyboardInterrupt):
        fit(module(), histories, SequenceConfig(**QUICK, epochs=3), work=tmp_path / "w")
    assert json.loads((tmp_path / "w/checkpoint/progress.json").read_text())["step"] == 4
    monkeypatch.setattr(Steps, "run", original)
    assert fit(module(), histories, SequenceConfig(**QUICK, epochs=3), work=tmp_path / "w").stopped == "epochs"
    assert fit(module(), histories, SequenceConfig(**QUICK, epochs=1, seed=4), work=tmp_path / "w").stopped == "epochs"
    assert (tmp_path / "w.old/checkpoint").exists()  # another run's work is set aside, not used


def test_a_diverging_run_is_said(histories):
    with pytest.raises(ConfigError, match="not a number"):
        fit(module(), histories, SequenceConfig(**{**QUICK, "learning_rate": 1e20}, clip=0.0, epochs=3))


def test_muon_is_the_muon_of_torch():
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (6, 4), (3, 9))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    rate = torch.tensor(0.01)
    mine = Muon(ours, rate=rate, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        rate.fill_(0.01 / (step + 1))
        reference.param_groups[0]["lr"] = 0.01 / (step + 1)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        mine.step()
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=2e-4)  # products in bfloat16, batched or not
    singular = torch.linalg.svdvals(orthogonal(torch.randn(2, 8, 5)).float())
    assert ((singular > 0.5) & (singular < 1.3)).all()


def test_muon_leaves_tables_alone(histories):
    model = module()
    steps = Steps(model, None, SequenceConfig(**QUICK, optimizer="muon", adamw_only=("up",)), torch.device("cpu"))
    moved = {id(p) for group in steps.optimizers[1].param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in moved}
    assert names == {f"blocks.0.{part}.weight" for part in ("mixed", "joined", "down")}


class Soft(SequenceModule):
    """A module of another kind: reads a teacher beside the targets."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ITEMS, ITEMS)

    def loss(self, batch):
        log_p = torch.log_softmax(self.table(batch.items), -1)
        soft = -(log_p.gather(2, batch.extra["items"].long()) * batch.extra["weights"]).sum(-1)
        asked = (batch.targets >= 0).float()
        return (soft * asked).sum(), asked.sum()


def test_soft_targets_stand_beside_the_targets(histories):
    from genrecall.train.sequence.data import SequenceData

    events = len(histories.items)
    taught = np.stack([(histories.items + 1) % ITEMS, (histories.items + 2) % ITEMS], 1).astype(np.int32)
    weights = np.tile(np.float32([0.75, 0.25]), (events, 1))
    torch.manual_seed(0)  # from where the table begins
    model = Soft()
    data = SequenceData(histories=histories, beside_targets={"items": taught, "weights": weights})
    fit(model, data, SequenceConfig(**{**QUICK, "learning_rate": 0.1}, epochs=60))
    p = torch.softmax(model.table.weight, -1)
    assert p[3, [5, 6]].tolist() == pytest.approx([0.75, 0.25], abs=0.03)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("on_device", [True, False])
def test_graphs_step_as_plain_steps_do(histories, monkeypatch, optimizer, on_device):
    from genrecall.train.sequence import fit as loop
    from genrecall.train.sequence.feed import DeviceFeed, HostFeed

    monkeypatch.setattr(loop, "open_feed", DeviceFeed if on_device else HostFeed)
    captured = []
    original = Steps._capture
    monkeypatch.setattr(Steps, "_capture", lambda self, shape: captured.append(shape) or original(self, shape))
    weights = {}
    for graphs in (False, True):
        config = {**QUICK, "device": "cuda", "precision": "float32", "optimizer": optimizer, "ema_decay": 0.9}
        config |= {"lengths": (5,)}  # both shapes come often enough to be captured
        model = module(dropout=0.0)
        fit(model, histories, SequenceConfig(**config, graphs=graphs, epochs=6))
        weights[graphs] = model.state_dict()
    assert sorted(captured) == [0, 1]
    for name, tensor in weights[False].items():
        torch.testing.assert_close(weights[True][name], tensor, rtol=2e-3, atol=2e-4)


@pytest.mark.gpu
def test_dropout_differs_between_replays(histories):
    class Noise(SequenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def loss(self, batch):
            noise = nn.functional.dropout(torch.ones_like(batch.items, dtype=torch.float32), 0.5)
            return noise.sum() + 0 * self.weight, (batch.targets >= 0).sum()

    values = []
    config = SequenceConfig(**{**QUICK, "device": "cuda", "lengths": ()}, epochs=12)
    original = Steps.mean_loss

    def mean_loss(self, targets):
        value = original(self, targets)
        values.append(value * targets)
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "mean_loss", mean_loss)
        fit(Noise(), histories, config)
    assert len(set(values)) > 5  # sums of a few dozen coins: some are alike, but not all
