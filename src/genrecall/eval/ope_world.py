"""A world whose truth is known, for off-policy evaluation: users with tastes, clicks by item and place.

    click_rk ~ Bernoulli(θ_k · σ(taste_u · item_a − 1)),   θ_k = 1 / log₂(k + 2)
    log: each user's K candidates by a noisy view of that, in random order with probability ε;  π: by a clearer view

Position-based clicks (Craswell, Zoeter, Taylor & Ramsey, "An experimental comparison of click position-bias models",
WSDM 2008), for which the item-position estimators are unbiased. Users ask several times, with the same tastes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.eval.ope import Logged
from genrecall.experiment.exploring import propensities

_DIMENSIONS = 8


@dataclass(frozen=True, kw_only=True)
class OffPolicyWorld:
    """One kind of log.

    Attributes:
        users, answers: how many, and of each.
        items, k: in the catalog; of a list.
        explore: ε.
        noise: of the view that the log's way orders by; π's has ``clear`` times as much.
    """

    users: int = 1000
    answers: int = 3
    items: int = 60
    k: int = 8
    explore: float = 0.3
    noise: float = 2.0
    clear: float = 0.2


def logged(world: OffPolicyWorld, seed: int) -> tuple[Logged, float]:
    """A log with what π would have answered, and π's expected clicks an answer for exactly these requests."""
    rng = np.random.default_rng(seed)
    vectors = np.random.default_rng(1).normal(size=(world.items, _DIMENSIONS)) / np.sqrt(_DIMENSIONS)
    tastes = rng.normal(size=(world.users, _DIMENSIONS)) * 1.5
    user = np.repeat(np.arange(world.users), world.answers)
    count, places = len(user), np.arange(world.k)
    affinity = (tastes @ vectors.T)[user]
    chance = 1 / (1 + np.exp(1 - affinity))
    candidates = np.argsort(rng.random((count, world.items)), axis=1)[:, : world.k]

    def by_view(noise: float) -> np.ndarray:
        view = np.take_along_axis(affinity, candidates, 1) + rng.normal(size=candidates.shape) * noise
        return np.take_along_axis(candidates, np.argsort(-view, axis=1), 1)

    usual, wanted = by_view(world.noise), by_view(world.noise * world.clear)
    explored = rng.random(count) < world.explore
    shuffled = np.take_along_axis(usual, np.argsort(rng.random(usual.shape), axis=1), 1)
    shown = np.where(explored[:, None], shuffled, usual)
    bias = 1 / np.log2(places + 2)
    clicks = rng.random(shown.shape) < bias * np.take_along_axis(chance, shown, 1)
    truth = float((bias * np.take_along_axis(chance, wanted, 1)).sum(axis=1).mean())
    chances = propensities(shown, usual, world.explore)
    return Logged(
        answer=np.repeat(np.arange(count), world.k), place=np.tile(places, count), item=shown.ravel(),
        reward=clicks.ravel().astype(np.float64), propensity=chances.ravel(),
        target=(shown == wanted).ravel().astype(np.float64), user=user, wanted=wanted,
    ), truth  # fmt: skip
