"""Interleaving with known truth: two rankers of known quality, users who click by relevance and by place.

    P(click j at place n) = r_j · d^(n−1),     r_j ~ Beta(1, 4),     ranker: by r_j + σ · noise

Clicks are those of a position-based model (Craswell, Zoeter, Taylor & Ramsey, "An experimental comparison of click
position-bias models", WSDM 2008). The better ranker is the one with less noise; equal noise is the truth "no
preference". ``ab_trial`` asks the same users by two arms, so that the two designs can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.experiment.inference import Difference, compare
from genrecall.experiment.interleaving import Preference, preference, team_draft


@dataclass(frozen=True, kw_only=True)
class InterleavedWorld:
    """One kind of experiment.

    Attributes:
        users: of it.
        noise: σ of the first and of the second ranker.
        items: candidates of each user.
        k: length of lists.
        answers: of each user.
        decay: d.
    """

    users: int = 400
    noise: tuple[float, float] = (0.2, 0.2)
    items: int = 40
    k: int = 10
    answers: int = 2
    decay: float = 0.85

    @property
    def truth(self) -> int:
        """1 where the second is better, −1 where the first is, 0 where they are equal."""
        return int(np.sign(self.noise[0] - self.noise[1]))


def interleaved_trial(world: InterleavedWorld, seed: int) -> Preference:
    """Every user gets interleaved lists."""
    rng = np.random.default_rng(seed)
    credits = np.zeros((world.users, 2), dtype=np.int64)
    for user in range(world.users):
        relevance = rng.beta(1, 4, world.items)
        for answer in range(world.answers):
            first, second = (_ranked(rng, relevance, noise) for noise in world.noise)
            draft = team_draft(first, second, world.k, f"{seed} {user} {answer}")
            clicks = _clicks(rng, relevance, [item for item, _ in draft], world.decay)
            for (_, team), clicked in zip(draft, clicks.tolist(), strict=True):
                credits[user, team] += clicked
    return preference(credits, planned=world.users)


def ab_trial(world: InterleavedWorld, seed: int) -> Difference:
    """Half of the users get the first ranker's lists, half the second's."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(world.users)
    for user in range(world.users):
        relevance = rng.beta(1, 4, world.items)
        for _ in range(world.answers):
            listed = _ranked(rng, relevance, world.noise[user % 2])[: world.k]
            counts[user] += _clicks(rng, relevance, listed, world.decay).sum()
    return compare(counts[::2], counts[1::2], planned=world.users)


def _ranked(rng: np.random.Generator, relevance: np.ndarray, noise: float) -> list[int]:
    order: list[int] = np.argsort(-(relevance + noise * rng.normal(size=len(relevance)))).tolist()
    return order


def _clicks(rng: np.random.Generator, relevance: np.ndarray, listed: list[int], decay: float) -> np.ndarray:
    chance = relevance[listed] * decay ** np.arange(len(listed))
    return np.asarray(rng.random(len(listed)) < chance)
