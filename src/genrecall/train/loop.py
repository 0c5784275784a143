"""The training loop: validation, early stop, checkpoints, and the finished model as an artifact.

    histories ──▶ Examples.plan(epoch) ──▶ Run.step … ──▶ validate(model) ──▶ best weights ──▶ artifact "model"
                                             └─▶ checkpoint, from which a killed run goes on bit by bit (on CPUs)

A run works in ``<out>.work/``: checkpoint/, best/ (both removed at the end), metrics.jsonl, tensorboard/. Where another
run has worked before, that directory becomes ``<out>.work.old/``.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genrecall import artifacts, telemetry
from genrecall.catalog.histories import Histories
from genrecall.index.trie import Trie
from genrecall.prompt.prompt import PromptBuilder
from genrecall.train import checkpoint
from genrecall.train.alignment import examples_of
from genrecall.train.attention import float32_attention
from genrecall.train.checkpoint import Progress
from genrecall.train.config import TrainConfig
from genrecall.train.corpus import Corpus
from genrecall.train.data import Profiles
from genrecall.train.distil import Counts, Teacher
from genrecall.train.dropout import residual_dropout
from genrecall.train.interrupt import interrupts
from genrecall.train.journal import Journal
from genrecall.train.norm import cheap_norms
from genrecall.train.result import KIND, METRICS, TrainResult, artifact_config, write_model
from genrecall.train.run import Run
from genrecall.train.schedule import rate
from genrecall.train.supervised import Targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Validate = Callable[["PreTrainedModel"], float]


def train(
    model: PreTrainedModel,
    prompts: PromptBuilder,
    histories: Histories,
    *,
    out: Path | str,
    config: TrainConfig,
    trie: Trie | None = None,
    teacher: Counts | None = None,
    corpus: Corpus | None = None,
    profile_of: Profiles | None = None,
    validate: Validate | None = None,
    parents: Mapping[str, str] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train and write the artifact; a run that was killed goes on from its last checkpoint.

    Args:
        model: a HF causal language model whose vocabulary holds the SID tokens; trained in place.
        prompts: the builder that will serve.
        histories: U users' training events.
        out: directory of the artifact.
        config: settings.
        trie: of all valid SIDs; built from the prompts' SIDs where absent.
        teacher: counts of the training events, where ``config.distil`` is set.
        corpus: texts and queries, where ``config.mixture`` is set.
        profile_of: a user's profile columns by row of ``histories``.
        validate: a figure to maximise (Recall@10, say), of the plain model in evaluation mode.
        parents: digests of catalog and SIDs.
        recipe: whatever else made the model (sizes, backbone); goes into the manifest.

    Raises:
        DataError: there is not a single event, or no text, to learn from.
        ConfigError: the loss left the numbers.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    out = Path(out)
    work = out.with_name(out.name + ".work")
    manifest = artifact_config(config, prompts, recipe)
    identity = {"run": manifest, "parents": dict(parents or {}), "data": histories.digest}
    if corpus is not None:
        identity["corpus"] = corpus.digest
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        examples = examples_of(prompts, histories, profile_of, config, corpus)
        trie = trie or Trie.build(prompts.vocabulary.space, prompts.sids)
        assert (teacher is None) == (config.distil is None), "a teacher and its settings come together"
        told = Teacher(teacher, trie, config.distil) if teacher is not None and config.distil else None
        targets = Targets(trie, prompts.sids, config.normalise, told)
        run = Run(model, examples, targets, config)
        with (
            residual_dropout(run.model, config.dropout),
            float32_attention(run.model, active=run.bfloat16 and run.device.type == "cpu"),
            cheap_norms(run.model, active=run.device.type == "cpu" or run.sharded),
        ):
            loop = _Loop(run, config, work, identity, validate)
            stopped = loop.train()
    last = run.kept() if loop.progress.best is None else {}
    digest = loop.finish(out, last, manifest, dict(parents or {})) if run.main else ""
    run.wait()  # the other processes read the artifact next
    return loop.result(out, digest, stopped)


class _Loop:
    """Drives one run from its checkpoint to its end."""

    def __init__(
        self, run: Run, config: TrainConfig, work: Path, identity: Mapping[str, Any], validate: Validate | None
    ) -> None:
        self.run, self.config, self.work, self.identity, self.validate = run, config, work, identity, validate
        self.progress, self.last_loss, self._tokens_s = Progress(), float("nan"), 0.0
        likes = checkpoint.likes_of(run.parameters, run.optimizers)
        found = checkpoint.load(work / "checkpoint", identity=identity, likes=likes)
        if found is not None:
            self.progress, tensors = found
            rank = int(run.accelerator.process_index)
            run.average.load(checkpoint.restore(tensors, run.parameters, run.optimizers, rank))
            if run.main:
                run.loss.fill_(self.progress.loss_sum)
            telemetry.log(f"going on from the checkpoint at step {self.progress.step}")
        elif run.main and work.exists():
            checkpoint.set_aside(work)
        self.journal = Journal(work, keep=self.progress.lines) if run.main else None
        self._begun = self._saved = time.monotonic()
        self._before = self.progress.seconds

    def train(self) -> str:
        """Steps until the end; says why it ended."""
        run, progress = self.run, self.progress
        run.plan(progress.epoch)
        total = round(run.steps_per_epoch * self.config.epochs)
        with telemetry.progress("training", total) as bar, interrupts() as interrupted:
            bar.advance(progress.step)
            while progress.stopped is None:
                if progress.batch >= len(run.groups):
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                    run.plan(progress.epoch)
                began = time.monotonic()
                items = run.step(progress)
                self._after_step()
                took = time.monotonic() - began
                self._tokens_s += took
                shown = {} if progress.best is None else {"best": progress.best}
                lr = rate(progress.share, self.config)
                bar.advance(1, loss=self.last_loss, **{"items/s": round(items / took)}, lr=lr, **shown)
                self._validate_if_due()
                if run.agree(bool(interrupted)):
                    self._save()
                    telemetry.log("interrupted; the same command goes on from the checkpoint just written")
                    raise KeyboardInterrupt
                self._save_if_due()
        if self.journal is not None:
            self.journal.close()
        return progress.stopped

    @property
    def epochs(self) -> float:
        """Passes over the data so far."""
        return self.progress.epoch + self.progress.batch / max(len(self.run.groups), 1)

    def _after_step(self) -> None:
        progress, config = self.progress, self.config
        progress.seconds = self._before + time.monotonic() - self._begun
        share = self.epochs / config.epochs
        if config.max_seconds is not None:
            usable = max(config.max_seconds - 1.2 * progress.validation_s, 1e-3)
            share = max(share, progress.share, self.run.agree(progress.seconds) / usable)
        progress.share = min(share, 1.0)
        if progress.share >= 1.0:
            progress.stopped = "epochs" if self.epochs >= config.epochs else "time"
        if progress.step % config.log_every == 0 or progress.stopped:
            steps = progress.loss_targets
            self.last_loss = self.run.mean_loss(progress)
            self._write(epoch=round(self.epochs, 4), loss=self.last_loss, lr=rate(progress.share, config), items=steps)

    def _validate_if_due(self) -> None:
        progress = self.progress
        due = int(self.epochs / self.config.eval_every + 1e-9)
        if self.validate is None or (due <= progress.validations and not progress.stopped):
            return
        progress.validations = due
        began = time.monotonic()
        value = self.run.agree(self._measure())
        progress.validation_s = max(progress.validation_s, time.monotonic() - began)
        progress.seconds = self._before + time.monotonic() - self._begun
        self._write(epoch=round(self.epochs, 4), validation=value)
        if progress.best is None or value > progress.best:
            progress.best, progress.best_epoch, progress.worse = value, round(self.epochs, 4), 0
            self._save_best()
        else:
            progress.worse += 1
            if self.config.patience and progress.worse >= self.config.patience and not progress.stopped:
                progress.stopped = "patience"
        if self.run.main:
            telemetry.log(f"epoch {self.epochs:.1f}: validation {value:.4f} (best {progress.best:.4f})")

    def _measure(self) -> float | None:
        """Validation of the weights that would be kept, without a trace in the random state."""
        assert self.validate is not None
        with (
            torch.random.fork_rng(devices=range(torch.cuda.device_count())),
            self.run.under_validation() as model,
            torch.no_grad(),
        ):
            return None if model is None else float(self.validate(model))

    def _save_best(self) -> None:
        from safetensors.torch import save_file

        weights = self.run.kept()
        if self.run.main:
            with artifacts.write_artifact(self.work / "best", kind="best", config=dict(self.identity)) as writer:
                save_file(weights, writer.path / "weights.safetensors")

    def _save_if_due(self) -> None:
        config = self.config
        by_time = config.checkpoint_every_s and time.monotonic() - self._saved >= config.checkpoint_every_s
        by_step = config.checkpoint_every_steps and self.progress.step % config.checkpoint_every_steps == 0
        if self.run.agree(bool(by_time or by_step)):
            self._save()

    def _save(self) -> None:
        """Write a checkpoint; every process holds a part of what goes into it."""
        run = self.run
        self.progress.seconds = self._before + time.monotonic() - self._begun
        loss, random = run.total_loss(), run.random_states()
        checkpoint.save(
            self.work / "checkpoint",
            identity=self.identity,
            progress=dataclasses.replace(self.progress, loss_sum=loss),
            tensors=checkpoint.state_of(run.parameters, run.average.tensors, run.optimizers),
            random=random,
            main=run.main,
            agree=run.agree,
        )
        self._saved = time.monotonic()

    def _write(self, **figures: Any) -> None:
        if self.journal is not None:
            self.journal.write(self.progress.step, **figures, seconds=round(self.progress.seconds, 2))
            self.progress.lines += 1

    def finish(
        self, out: Path, last: Mapping[str, torch.Tensor], config: Mapping[str, Any], parents: Mapping[str, str]
    ) -> str:
        """Write the artifact from the best weights, or without validation from the last; returns its digest."""
        from safetensors.torch import load_file

        run, progress = self.run, self.progress
        best = self.work / "best" / "weights.safetensors"
        model = run.finished(load_file(best) if progress.best is not None else last)
        facts = {
            "best": progress.best,
            "best_epoch": progress.best_epoch,
            "epochs": round(self.epochs, 4),
            "steps": progress.step,
            "stopped": progress.stopped,
            "seconds": round(progress.seconds, 1),
            "tokens_per_s": round(self.tokens_per_s),
            "bfloat16": run.bfloat16,
            **run.examples.facts(),
        }
        write_model(
            out,
            model,
            run.examples.prompts,
            metrics=self.work / METRICS,
            config=config,
            parents=parents,
            facts=facts,
        )
        for name in ("checkpoint", "best"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        return artifacts.open_artifact(out, kind=KIND, verify=False).digest

    @property
    def tokens_per_s(self) -> float:
        """Speed of the steps, validation and checkpoints left out."""
        return self.run.tokens / self._tokens_s if self._tokens_s else 0.0

    def result(self, out: Path, digest: str, stopped: str) -> TrainResult:
        """What the caller gets."""
        progress = self.progress
        return TrainResult(
            path=out, digest=digest, steps=progress.step, epochs=round(self.epochs, 4), loss=self.last_loss,
            best=progress.best, best_epoch=progress.best_epoch, stopped=stopped,
            seconds=round(progress.seconds, 1), tokens_per_s=round(self.tokens_per_s, 1),
        )  # fmt: skip
