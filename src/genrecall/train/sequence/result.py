"""What a run over item sequences gives back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A finished run; the module holds its weights.

    Attributes:
        steps, epochs: done.
        loss: of the last logged steps, nats a target.
        best: best validation; None without a validation.
        best_epoch: when it was.
        stopped: "epochs", "time" or "patience".
        seconds: wall time, over all parts of a resumed run, validation included.
        validation_s: of that, in validations, of the last part.
        events_per_s: targets learnt from a second, of the last part, validation and checkpoints left out.
        peak_share: arithmetic of matrix products and attention as a share of the device's bf16 peak, of the same
            seconds; None where the peak is not known.
        parameters: trained numbers.
        validations: (epoch, value) of the last part.
    """

    steps: int
    epochs: float
    loss: float
    best: float | None
    best_epoch: float
    stopped: str
    seconds: float
    validation_s: float
    events_per_s: float
    peak_share: float | None
    parameters: int
    validations: tuple[tuple[float, float], ...] = field(default=())
