"""The loop over item sequences: validation, early stop, checkpoints, best weights.

    histories ──▶ plan(epoch) ──▶ Steps.run … ──▶ validate(module) ──▶ best weights back in the module
                                     └─▶ checkpoint, from which a killed run goes on bit by bit (on CPUs)

With a directory to work in, a run writes checkpoint/, metrics.jsonl and tensorboard/ there; its last checkpoint stays,
so that the same call gives the same weights at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from genrecall import hardware, telemetry
from genrecall.catalog.histories import Histories
from genrecall.model.sequence import SequenceModule
from genrecall.train import checkpoint
from genrecall.train.checkpoint import Progress
from genrecall.train.interrupt import interrupts
from genrecall.train.journal import Journal
from genrecall.train.schedule import rate
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.data import Plan, SequenceData, plan
from genrecall.train.sequence.feed import open_feed
from genrecall.train.sequence.optimizers import share_rate
from genrecall.train.sequence.result import FitResult
from genrecall.train.sequence.steps import Steps

Module = TypeVar("Module", bound=SequenceModule)


def fit(
    module: Module,
    data: SequenceData | Histories,
    config: SequenceConfig,
    *,
    validate: Callable[[Module], float] | None = None,
    work: Path | str | None = None,
    identity: Mapping[str, Any] | None = None,
    label: str = "training",
) -> FitResult:
    """Train a module in place and leave it in evaluation mode, on its device, with its best weights.

    Args:
        module: with ``loss(batch)``; see ``model.sequence``.
        data: what it learns from.
        config: settings.
        validate: a figure to maximise, of the module in evaluation mode with the weights that would be kept.
        work: directory for checkpoints and figures; None keeps nothing.
        identity: what else makes this run what it is (sizes of the module, say): a checkpoint of another is not used.
        label: stands beside the progress bar.

    Raises:
        DataError: no user has two events.
        ConfigError: the loss left the numbers.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written where there is a place for it.
    """
    if isinstance(data, Histories):
        data = SequenceData(histories=data)
    device = hardware.pick_device(config.device)
    cuda = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(config.seed)
        steps = Steps(module, open_feed(data, config, device), config, device)
        whole = {"run": config.identity(), "data": data.histories.digest if work else "", **(identity or {})}
        loop = _Loop(steps, data, config, validate, Path(work) if work else None, whole)
        with steps.stream():
            return loop.run(label)


class _Loop:
    """Drives one run from its checkpoint to its end."""

    def __init__(
        self,
        steps: Steps,
        data: SequenceData,
        config: SequenceConfig,
        validate: Callable[[Any], float] | None,
        work: Path | None,
        identity: Mapping[str, Any],
    ) -> None:
        self.steps, self.data, self.config, self.validate, self.work = steps, data, config, validate, work
        self.identity, self.progress = identity, Progress()
        self.best: dict[str, torch.Tensor] = {}
        self.values: list[tuple[float, float]] = []
        self.last_loss = float("nan")
        self._learnt = 0
        self._learning_s = self._validation_s = 0.0
        if work is not None:
            self._resume(work)
        self.journal = Journal(work, keep=self.progress.lines) if work is not None else None
        self.plan: Plan
        self._begun = self._saved = time.monotonic()
        self._before = self.progress.seconds

    def run(self, label: str) -> FitResult:
        """Steps until the end."""
        progress, config = self.progress, self.config
        self._take_up(progress.epoch)
        if progress.stopped is None:
            total = round(len(self.plan) * config.epochs)
            with telemetry.progress(label, total) as bar, interrupts() as interrupted:
                bar.advance(progress.step)
                while progress.stopped is None:
                    done = self._round(interrupted)
                    figures = {} if progress.best is None else {"best": progress.best}
                    speed = self._learnt / max(self._learning_s, 1e-9)
                    bar.advance(done, loss=self.last_loss, **{"events/s": round(speed)}, **figures)
                    self._validate_if_due()
                    if interrupted:
                        self._save()
                        kept = "the same call goes on from the checkpoint just written" if self.work else "nothing kept"
                        telemetry.log(f"interrupted; {kept}")
                        raise KeyboardInterrupt
                    self._save_if_due()
            self._save()
        if self.journal is not None:
            self.journal.close()
        return self._finish()

    def _round(self, interrupted: list[int]) -> int:
        """Steps up to the next thing to do other than a step; says how many."""
        progress, config = self.progress, self.config
        began, first = time.monotonic(), progress.step
        self.steps.module.train()
        while True:
            if progress.batch >= len(self.plan):
                self._take_up(progress.epoch + 1)
            learnt = self.plan.targets(progress.batch)
            self.steps.run(self.plan, progress.batch, step=progress.step + 1, rate=rate(progress.share, config))
            progress.step, progress.batch = progress.step + 1, progress.batch + 1
            progress.targets, progress.loss_targets = progress.targets + learnt, progress.loss_targets + learnt
            self._learnt += learnt
            self._move_on()
            log = progress.step % config.log_every == 0 or progress.stopped is not None
            if log:
                self._log()
            if log or interrupted or self._due() or self._wants_checkpoint():
                break
        if self.steps.device.type == "cuda":
            torch.cuda.current_stream(self.steps.device).synchronize()
        self._learning_s += time.monotonic() - began
        return progress.step - first

    @property
    def epochs(self) -> float:
        """Passes over the data so far."""
        return self.progress.epoch + self.progress.batch / max(len(self.plan), 1)

    def _take_up(self, epoch: int) -> None:
        if epoch != self.progress.epoch:
            self.progress.epoch, self.progress.batch = epoch, 0
        self.plan = plan(self.data, self.config, epoch)
        self.steps.feed.begin(self.plan)

    def _move_on(self) -> None:
        progress, config = self.progress, self.config
        progress.seconds = self._before + time.monotonic() - self._begun
        share = self.epochs / config.epochs
        if config.max_seconds is not None:
            usable = max(config.max_seconds - 1.2 * progress.validation_s, 1e-3)
            share = max(share, progress.share, progress.seconds / usable)
        progress.share = min(share, 1.0)
        if progress.share >= 1.0:
            progress.stopped = "epochs" if self.epochs >= config.epochs else "time"

    def _log(self) -> None:
        progress = self.progress
        targets, progress.loss_targets = progress.loss_targets, 0
        self.last_loss = self.steps.mean_loss(targets)
        lr = rate(progress.share, self.config)
        self._write(epoch=round(self.epochs, 4), loss=self.last_loss, lr=lr, events=targets)

    def _due(self) -> bool:
        due = int(self.epochs / self.config.eval_every + 1e-9)
        return self.validate is not None and (due > self.progress.validations or self.progress.stopped is not None)

    def _validate_if_due(self) -> None:
        if self.validate is None or not self._due():
            return
        progress, steps = self.progress, self.steps
        progress.validations = int(self.epochs / self.config.eval_every + 1e-9)
        began = time.monotonic()
        steps.module.eval()
        with torch.random.fork_rng(devices=[]), steps.average.applied(), torch.no_grad():
            value = float(self.validate(steps.module))
        took = time.monotonic() - began
        self._validation_s += took
        progress.validation_s = max(progress.validation_s, took)
        progress.seconds = self._before + time.monotonic() - self._begun
        self.values.append((round(self.epochs, 4), value))
        self._write(epoch=round(self.epochs, 4), validation=value)
        if progress.best is None or value > progress.best:
            progress.best, progress.best_epoch, progress.worse = value, round(self.epochs, 4), 0
            self.best = {name: tensor.detach().clone() for name, tensor in self._kept().items()}
        else:
            progress.worse += 1
            if self.config.patience and progress.worse >= self.config.patience and progress.stopped is None:
                progress.stopped = "patience"
        telemetry.log(f"epoch {self.epochs:.1f}: validation {value:.4f} (best {progress.best:.4f})")

    def _kept(self) -> Mapping[str, torch.Tensor]:
        return self.steps.average.tensors or self.steps.parameters

    def _wants_checkpoint(self) -> bool:
        config = self.config
        if self.work is None:
            return False
        by_time = config.checkpoint_every_s and time.monotonic() - self._saved >= config.checkpoint_every_s
        return bool(
            by_time or (config.checkpoint_every_steps and self.progress.step % config.checkpoint_every_steps == 0)
        )

    def _save_if_due(self) -> None:
        if self._wants_checkpoint():
            self._save()

    def _save(self) -> None:
        if self.work is None:
            return
        steps, progress = self.steps, self.progress
        progress.loss_sum = float(steps.loss)
        progress.seconds = self._before + time.monotonic() - self._begun
        best = {f"best/{name}": tensor.cpu() for name, tensor in self.best.items()}
        checkpoint.save(
            self.work / "checkpoint",
            identity=self.identity,
            progress=progress,
            tensors={**checkpoint.state_of(steps.parameters, steps.average.tensors, steps.optimizers), **best},
            random=[checkpoint.random_state()],
        )
        self._saved = time.monotonic()

    def _resume(self, work: Path) -> None:
        found = checkpoint.load(work / "checkpoint", identity=self.identity)
        if found is None:
            if work.exists():
                checkpoint.set_aside(work)
            return
        self.progress, tensors = found
        steps = self.steps
        steps.average.load(checkpoint.restore(tensors, steps.parameters, steps.optimizers))
        share_rate(steps.optimizers, steps.rate)
        steps.loss.fill_(self.progress.loss_sum)
        self.best = {name: tensor.to(steps.device) for name, tensor in checkpoint.part(tensors, "best").items()}
        telemetry.log(f"going on from the checkpoint at step {self.progress.step}")

    def _write(self, **figures: Any) -> None:
        if self.journal is not None:
            self.journal.write(self.progress.step, **figures, seconds=round(self.progress.seconds, 2))
            self.progress.lines += 1

    def _finish(self) -> FitResult:
        steps, progress = self.steps, self.progress
        assert progress.stopped is not None
        with torch.no_grad():
            for name, tensor in (self.best or dict(self._kept())).items():
                steps.parameters[name].copy_(tensor)
        steps.module.eval()
        peak = hardware.peak_flops(steps.device)
        seconds = max(self._learning_s, 1e-9)
        return FitResult(
            steps=progress.step,
            epochs=round(self.epochs, 4),
            loss=self.last_loss,
            best=progress.best,
            best_epoch=progress.best_epoch,
            stopped=progress.stopped,
            seconds=round(progress.seconds, 2),
            validation_s=round(self._validation_s, 2),
            events_per_s=round(self._learnt / seconds, 1),
            peak_share=None if peak is None else round(steps.flops / seconds / peak, 5),
            parameters=sum(p.numel() for p in steps.parameters.values()),
            validations=tuple(self.values),
        )
