"""The ``model`` artifact: a HF directory with tokenizer, prompt settings and the run's figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrecall import artifacts, hardware
from genrecall.model.weights import save_model
from genrecall.prompt.prompt import PromptBuilder
from genrecall.train.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KIND = "model"
METRICS = "metrics.jsonl"
_TIMES = ("seconds",)
_NOT_LEARNT_FROM = ("device", "shard", "log_every", "checkpoint_every_s", "checkpoint_every_steps")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run.

    Attributes:
        path, digest: of the ``model`` artifact.
        steps, epochs: done.
        loss: of the last logged steps, nats an item.
        best: best validation; None without a validation.
        best_epoch: when it was.
        stopped: "epochs", "time" or "patience".
        seconds: wall time, over all parts of a resumed run.
        tokens_per_s: through the model, padding included, of the last part, validation left out.
    """

    path: Path
    digest: str
    steps: int
    epochs: float
    loss: float
    best: float | None
    best_epoch: float
    stopped: str
    seconds: float
    tokens_per_s: float


def learnt_from(config: TrainConfig) -> dict[str, Any]:
    """The settings that make a model what it is; where it was computed and how often the run spoke do not."""
    return {name: value for name, value in asdict(config).items() if name not in _NOT_LEARNT_FROM}


def artifact_config(
    config: TrainConfig, prompts: PromptBuilder, recipe: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The manifest's configuration of a model, for ``artifacts.is_current`` before anything is loaded."""
    return {
        "train": learnt_from(config),
        "prompt": prompts.settings(),
        "normalise": config.normalise,
        "recipe": dict(recipe or {}),
    }


def write_model(
    out: Path,
    model: PreTrainedModel,
    prompts: PromptBuilder,
    *,
    metrics: Path,
    config: Mapping[str, Any],
    parents: Mapping[str, str],
    facts: Mapping[str, Any],
) -> None:
    """Write the artifact; equal runs write equal files, so times go into ``facts`` and out of the figures."""
    with artifacts.write_artifact(out, kind=KIND, config=config, parents=parents) as writer:
        save_model(model, writer.path)
        prompts.vocabulary.save(writer.path)
        prompts.save(writer.path, normalise=config["normalise"])
        lines = metrics.read_text(encoding="utf-8").splitlines()
        kept = [{k: v for k, v in json.loads(line).items() if k not in _TIMES} for line in lines]
        (writer.path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        writer.facts |= {**facts, "machine": hardware.describe()}
