"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrecall.errors import ConfigError
from genrecall.model.lora import LoraSettings
from genrecall.train.distil import DistilConfig
from genrecall.train.mixture import Mixture

Normalise = Literal["trie", "level"]
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained. The defaults suit models from scratch; a pretrained backbone wants a tenth of the rate.

    Attributes:
        epochs: passes over all events; the cosine ends here.
        max_seconds: stop after so many seconds of wall time, the last validation included. Progress is then the larger
            of epochs done and time used, so the cosine still reaches its end; such a run cannot be repeated exactly.
        batch_tokens: the most tokens of a forward pass, padding included.
        accumulate: forward passes an optimiser step; gradients are those of one large batch, exactly.
        optimizer: "adamw", or "muon" for the matrices of the blocks (for models from scratch).
        learning_rate: at the top of the cosine.
        final_rate: at its end, as a share of ``learning_rate``.
        warmup: share of the whole progress in which the rate rises.
        weight_decay: on matrices only.
        clip: largest norm of the gradient; 0 lifts the limit.
        dropout: on embeddings and on what every attention and MLP block adds; not part of the saved model.
        label_smoothing: probability spread evenly over the codes that the softmax runs over.
        distil: learn from a teacher of counts, too; needs ``train(teacher=...)``.
        mixture: train on several tasks in these shares; needs ``train(corpus=...)``. None: on the next item alone.
        normalise: softmax over the valid codes of each prefix ("trie") or over all codes of the level ("level").
        ema_decay: validate and save the moving average of the weights with this decay a step; 0: the weights.
        overlap: in histories longer than the prompt, the share of a window that is context only, so that no target is
            without a past; every event is a target once an epoch whatever it is.
        max_events_per_user: train on each user's last so many events.
        reshuffle_ties: events with equal time stamps get a new order every epoch.
        eval_every: epochs (may be a fraction) between validations.
        patience: stop after so many validations without a new best; 0: never.
        checkpoint_every_s: seconds between checkpoints; 0: none but the one at an interrupt.
        checkpoint_every_steps: also after every so many steps; 0: by time alone.
        log_every: steps a line of metrics.jsonl.
        precision: of the matrix products; ``auto`` is bfloat16 where the device has it (on CPUs: AMX or AVX-512 BF16).
        device: ``auto``, ``cpu`` or ``cuda``.
        gradient_checkpointing: compute activations twice to store fewer.
        stored_layers: with it, so many of the last blocks store theirs all the same: as many as memory has room for.
        lora: train small matrices and the SID tokens' rows instead of all weights.
        shard: under torchrun, spread weights, gradients and optimiser state over the processes (FSDP2) instead of
            keeping a copy in each.
        seed: of order, windows and dropout.
    """

    epochs: float = 20.0
    max_seconds: float | None = None
    batch_tokens: int = 8192
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = 2e-3
    final_rate: float = 0.02
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0
    dropout: float = 0.2
    label_smoothing: float = 0.0
    distil: DistilConfig | None = None
    mixture: Mixture | None = None
    normalise: Normalise = "trie"
    ema_decay: float = 0.0
    overlap: float = 0.2
    max_events_per_user: int | None = None
    reshuffle_ties: bool = False
    eval_every: float = 1.0
    patience: int = 5
    checkpoint_every_s: float = 60.0
    checkpoint_every_steps: int = 0
    log_every: int = 10
    precision: str = "auto"
    device: str = "auto"
    gradient_checkpointing: bool = False
    stored_layers: int = 0
    lora: LoraSettings | None = None
    shard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        limits = (
            ("epochs", self.epochs > 0, "more than 0"),
            ("max_seconds", self.max_seconds is None or self.max_seconds > 0, "more than 0, or none"),
            ("batch_tokens", self.batch_tokens >= 1, "1 or more"),
            ("accumulate", self.accumulate >= 1, "1 or more"),
            ("optimizer", self.optimizer in ("adamw", "muon"), "adamw, muon"),
            ("learning_rate", self.learning_rate > 0, "more than 0"),
            ("final_rate", 0 <= self.final_rate <= 1, "0 to 1"),
            ("warmup", 0 <= self.warmup < 1, "0 to below 1"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("clip", self.clip >= 0, "0 or more"),
            ("dropout", 0 <= self.dropout < 1, "0 to below 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "0 to below 1"),
            ("normalise", self.normalise in ("trie", "level"), "trie, level"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 to below 1"),
            ("overlap", 0 <= self.overlap < 1, "0 to below 1"),
            ("max_events_per_user", (self.max_events_per_user or 1) >= 1, "1 or more, or none"),
            ("eval_every", self.eval_every > 0, "more than 0"),
            ("patience", self.patience >= 0, "0 or more"),
            ("log_every", self.log_every >= 1, "1 or more"),
            ("stored_layers", self.stored_layers >= 0, "0 or more"),
            ("precision", self.precision in PRECISIONS, ", ".join(PRECISIONS)),
        )
        values = vars(self)
        for name, fine, allowed in limits:
            if not fine:
                raise ConfigError(
                    f"the training setting {name} is out of range",
                    seen=values[name], allowed=allowed, fix=f"choose another {name}",
                )  # fmt: skip
        if self.mixture is not None and self.distil is not None:
            raise ConfigError(
                "a teacher of counts knows nothing of other tasks",
                seen="distil with a mixture of tasks",
                allowed="one of them",
                fix="align first, and distil while training on the next item alone",
            )
        if self.shard and self.lora is not None:
            raise ConfigError(
                "LoRA cannot be sharded",
                seen="shard with lora",
                allowed="shard for tuning all weights; LoRA with a copy of the frozen weights in each process",
                fix="leave one of them out",
            )
