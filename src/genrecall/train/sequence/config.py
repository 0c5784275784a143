"""Settings of a run over item sequences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from genrecall.errors import ConfigError
from genrecall.train.config import PRECISIONS

_MAKES_NO_OTHER_MODEL = ("device", "graphs", "log_every", "checkpoint_every_s", "checkpoint_every_steps")


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """How a module that reads item sequences is trained.

    Attributes:
        epochs: passes over all events; the cosine ends here.
        max_seconds: stop after so many seconds of wall time, the last validation included; the cosine then ends there.
        window: T, the most items a target sees; longer histories are cut into windows.
        overlap: share of a window that is context only, so that no target of a long history is without a past.
        batch_tokens: places (B x T) of a batch, padding included.
        lengths: the T of batches, ascending; the window is always among them. Each row goes where it fits best.
        reshuffle_ties: events with equal times get a new order every epoch.
        optimizer: "adamw", or "muon" for the matrices that are not embeddings.
        adamw_only: parts of names of further matrices that Muon must leave alone (output tables).
        learning_rate: at the top of the cosine.
        final_rate: at its end, as a share of ``learning_rate``.
        warmup: share of the whole progress in which the rate rises.
        weight_decay: on matrices only.
        clip: largest norm of the gradient; 0 lifts the limit.
        ema_decay: validate and keep the moving average of the weights with this decay a step; 0: the weights.
        eval_every: epochs (may be a fraction) between validations.
        patience: stop after so many validations without a new best; 0: never.
        checkpoint_every_s, checkpoint_every_steps: between checkpoints; 0: none but the last.
        log_every: steps a line of metrics.jsonl.
        precision: of the matrix products; ``auto`` is bfloat16 where the device has it.
        device: ``auto``, ``cpu`` or ``cuda``.
        graphs: on CUDA, replay each step as one graph.
        seed: of order, windows and dropout.
    """

    epochs: float = 100.0
    max_seconds: float | None = None
    window: int = 50
    overlap: float = 0.2
    batch_tokens: int = 2048
    lengths: tuple[int, ...] = (4, 8, 16, 32)
    reshuffle_ties: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"
    adamw_only: tuple[str, ...] = ()
    learning_rate: float = 1e-3
    final_rate: float = 0.02
    warmup: float = 0.02
    weight_decay: float = 0.05
    clip: float = 1.0
    ema_decay: float = 0.0
    eval_every: float = 5.0
    patience: int = 5
    checkpoint_every_s: float = 60.0
    checkpoint_every_steps: int = 0
    log_every: int = 50
    precision: str = "auto"
    device: str = "auto"
    graphs: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        # Configurations come back from JSON with lists.
        object.__setattr__(self, "lengths", tuple(self.lengths))
        object.__setattr__(self, "adamw_only", tuple(self.adamw_only))
        limits = (
            ("epochs", self.epochs > 0, "more than 0"),
            ("max_seconds", self.max_seconds is None or self.max_seconds > 0, "more than 0, or none"),
            ("window", self.window >= 1, "1 or more"),
            ("overlap", 0 <= self.overlap < 1, "0 to below 1"),
            ("batch_tokens", self.batch_tokens >= self.window, "a window or more"),
            ("lengths", list(self.lengths) == sorted({*self.lengths} - {0}), "distinct positive numbers, ascending"),
            ("optimizer", self.optimizer in ("adamw", "muon"), "adamw, muon"),
            ("learning_rate", self.learning_rate > 0, "more than 0"),
            ("final_rate", 0 <= self.final_rate <= 1, "0 to 1"),
            ("warmup", 0 <= self.warmup < 1, "0 to below 1"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("clip", self.clip >= 0, "0 or more"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 to below 1"),
            ("eval_every", self.eval_every > 0, "more than 0"),
            ("patience", self.patience >= 0, "0 or more"),
            ("log_every", self.log_every >= 1, "1 or more"),
            ("precision", self.precision in PRECISIONS, ", ".join(PRECISIONS)),
        )
        for name, fine, allowed in limits:
            if not fine:
                raise ConfigError(
                    f"the training setting {name} is out of range",
                    seen=vars(self)[name], allowed=allowed, fix=f"choose another {name}",
                )  # fmt: skip

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(B, T) of every kind of batch, T ascending."""
        lengths = [*(length for length in self.lengths if length < self.window), self.window]
        return tuple((max(1, self.batch_tokens // length), length) for length in lengths)

    def identity(self) -> dict[str, Any]:
        """The settings that decide what is learnt."""
        return {name: value for name, value in asdict(self).items() if name not in _MAKES_NO_OTHER_MODEL}
