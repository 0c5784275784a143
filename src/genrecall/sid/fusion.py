"""What a quantiser is fed: text vectors alone, or text and collaborative vectors side by side.

    x = [ √(1−w) · t/|t| ,  √w · c/|c| ],   t, c centred (t also scaled by dimension);   new item:  c = B t/|t|

w is the share of the squared distances that behaviour decides. Source: LETTER (arXiv:2405.07314) aligns SIDs with
collaborative vectors in the loss; plain concatenation did as well in our trials. An item without training events, above
all one appended later, has no c: it gets the ridge estimate from its text, c = B t. B is fitted on the items that have
both, with λ from generalised cross-validation (Golub, Heath and Wahba 1979), and is stored with the quantiser. The
estimate is not stretched to unit length: where text says little it shrinks to the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from genrecall.sid.collaborative import unit_rows
from genrecall.sid.normaliser import CHUNK, Normaliser

_PENALTIES = np.logspace(-4, 3, 15)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fusion:
    """How text and behaviour are joined.

    Attributes:
        weight: w, 0 (text alone) to 1 (behaviour alone).
        text: centre and scale of the text vectors, on the CPU.
        centre: float32 (K,) mean of the collaborative vectors.
        predictor: float32 (D, K): B transposed.
    """

    weight: float
    text: Normaliser
    centre: np.ndarray
    predictor: np.ndarray

    @classmethod
    def fit(cls, text: np.ndarray, collaborative: np.ndarray, weight: float) -> Fusion:
        """Learn from text (I, D) and collaborative (I, K) vectors; all-zero collaborative rows count as missing."""
        known = collaborative.any(1)
        centre = collaborative[known].mean(0) if known.any() else np.zeros(collaborative.shape[1], np.float32)
        normaliser = Normaliser.fit(text)
        target = unit_rows(collaborative[known] - centre)
        predictor = ridge(_text_block(normaliser, text[known]), target)
        return cls(weight=weight, text=normaliser, centre=centre.astype(np.float32), predictor=predictor)

    def __call__(self, text: np.ndarray, collaborative: np.ndarray | None = None) -> np.ndarray:
        """Join to float32 (n, D + K); collaborative vectors not given, or zero, are estimated from the text."""
        block = _text_block(self.text, text)
        behaviour = block @ self.predictor
        if collaborative is not None:
            known = collaborative.any(1)
            behaviour[known] = unit_rows(collaborative[known] - self.centre)
        return np.hstack([block * (1 - self.weight) ** 0.5, behaviour * self.weight**0.5])

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors to store beside the quantiser's."""
        return {
            "weight": torch.tensor([self.weight]),
            "mean": self.text.mean,
            "scale": self.text.scale,
            "centre": torch.from_numpy(self.centre),
            "predictor": torch.from_numpy(self.predictor),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor]) -> Fusion:
        """The same fusion again."""
        return cls(
            weight=float(state["weight"]),
            text=Normaliser(mean=state["mean"], scale=state["scale"]),
            centre=state["centre"].numpy(),
            predictor=state["predictor"].numpy(),
        )


def ridge(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Float32 (D, K) B that minimises |inputs B − targets|² + λ|B|², with the λ that leave-one-out error likes best."""
    count = len(inputs)
    if count < 2:
        return np.zeros((inputs.shape[1], targets.shape[1]), np.float32)
    inputs, targets = inputs.astype(np.float64), targets.astype(np.float64)
    values, axes = np.linalg.eigh(inputs.T @ inputs)
    values = values.clip(min=0)
    projected = axes.T @ (inputs.T @ targets)
    total = np.square(targets).sum()

    def error(penalty: float) -> float:
        shrunk = projected / (values + penalty)[:, None]
        misfit = total - 2 * (shrunk * projected).sum() + (np.square(shrunk) * values[:, None]).sum()
        freedom = (values / (values + penalty)).sum()
        return float(misfit / max(count - freedom, 1e-9) ** 2)

    best = min(_PENALTIES * values.mean().clip(min=1e-12), key=error)
    return (axes @ (projected / (values + best)[:, None])).astype(np.float32)


def _text_block(normaliser: Normaliser, text: np.ndarray) -> np.ndarray:
    parts = [unit_rows(rows.numpy()) for rows in normaliser.chunks(text, CHUNK)]
    return np.concatenate(parts) if parts else np.empty((0, text.shape[1]), np.float32)
