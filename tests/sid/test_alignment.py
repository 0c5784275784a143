"""Alignment makes codes of text know behaviour, and leaves new items codable from their text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.errors import ConfigError
from genrecall.sid.alignment import Aligned
from genrecall.sid.neighbours import Nearest
from genrecall.sid.normaliser import Normaliser
from genrecall.sid.rq_vae import RqVae, RqVaeConfig


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Text (240, 16) whose loud part says nothing of behaviour (240, 6) and whose quiet part says all."""
    rng = np.random.default_rng(0)
    theme = np.arange(240) % 12
    behaviour = rng.normal(size=(12, 6))[theme] + 0.05 * rng.normal(size=(240, 6))
    loud = 3 * rng.normal(size=(8, 8))[rng.integers(0, 8, 240)] + 0.3 * rng.normal(size=(240, 8))
    quiet = 0.5 * rng.normal(size=(12, 8))[theme] + 0.05 * rng.normal(size=(240, 8))
    return np.hstack([loud, quiet]).astype(np.float32), behaviour.astype(np.float32)


def fit(weight: float, text: np.ndarray, behaviour: np.ndarray | None) -> RqVae:
    config = RqVaeConfig(
        device="cpu", hidden=(32,), latent=16, batch=120, epochs=1, min_steps=200, learning_rate=1e-2,
        alignment_weight=weight,
    )  # fmt: skip
    return RqVae(levels=2, codes=12, config=config).fit(text, seed=0, behaviour=behaviour)


def agreement(quantizer: RqVae, text: np.ndarray, behaviour: np.ndarray) -> float:
    codes = quantizer.encode(text)
    nearest = Nearest.of(behaviour, Normaliser.fit(behaviour, "none"), neighbours=10, queries=240, seed=0)
    return nearest.overlap(codes)["overlap"]


def test_aligned_codes_keep_more_neighbours_of_behaviour() -> None:
    text, behaviour = planted()
    apart, aligned = (agreement(fit(weight, text, behaviour), text, behaviour) for weight in (0.0, 1.0))
    assert aligned > apart + 0.1


def test_items_without_behaviour_take_no_part_and_are_coded_like_their_twins() -> None:
    text, behaviour = planted()
    cold = np.arange(240) % 4 == 0
    behaviour[cold] = 0
    quantizer = fit(1.0, text, behaviour)
    assert agreement(quantizer, text[~cold], behaviour[~cold]) > 0.35
    twins = quantizer.encode(
        text[cold]
    )  # a new item with the same text gets the same codes: behaviour is not asked for
    assert np.array_equal(twins, quantizer.encode(text)[cold])


def test_the_loss_is_the_mean_log_chance_of_the_own_vector() -> None:
    class Nothing:
        def parameters(self):
            return ()

        def __call__(self, z, rows):
            return z, torch.zeros(())

    rng = np.random.default_rng(0)
    behaviour = rng.normal(size=(6, 3)).astype(np.float32)
    behaviour[4] = 0
    loss = Aligned(
        Nothing(), behaviour, latent=5, weight=2.0, temperature=0.5, generator=torch.Generator(),
        device=torch.device("cpu"),
    )  # fmt: skip
    z, rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 4, 5])
    here = [0, 1, 3]
    written = torch.nn.functional.normalize(z[here] @ loss.projection.T).detach().numpy()
    known = behaviour[[0, 2, 5]] - behaviour[[0, 1, 2, 3, 5]].mean(0)
    scores = written @ (known / np.linalg.norm(known, axis=1, keepdims=True)).T / 0.5
    expected = -np.mean(np.diag(scores) - np.log(np.exp(scores).sum(1)))
    assert float(loss(z, rows)[1].detach()) == pytest.approx(2 * expected, rel=1e-4)
    lonely = loss(z[:1], rows[:1])[1]
    assert float(lonely) == 0


def test_alignment_without_behaviour_is_refused() -> None:
    text, _ = planted()
    with pytest.raises(ConfigError, match="collaborative"):
        fit(1.0, text, None)
