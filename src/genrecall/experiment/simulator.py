"""Experiments with known truth: what the statistics must find, and how often they may be wrong.

    events_u ~ Poisson(rate_u · (1 + effect · [u in treatment])),   before_u ~ Poisson(rate_u),   rate_u ~ Gamma(shape)

The users' own rates make outcomes vary far more than the effect does, as in reality, and are what CUPED can see. The
true difference is effect · mean rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.experiment.assignment import Arm, Layer
from genrecall.experiment.inference import Difference, compare, srm


@dataclass(frozen=True, kw_only=True)
class World:
    """One kind of experiment.

    Attributes:
        users: of both arms.
        effect: relative; 0 is an A/A test.
        rate: mean events of a user.
        shape: of the rates; smaller differ more.
        lost: share of the treatment's users whose exposures get lost: makes the ratio wrong.
    """

    users: int = 2000
    effect: float = 0.0
    rate: float = 2.0
    shape: float = 1.0
    lost: float = 0.0

    @property
    def truth(self) -> float:
        """The difference that is there."""
        return self.effect * self.rate


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One experiment: what was concluded at its end, and whether any of several looks excluded the truth."""

    once: Difference
    srm_p: float
    missed_at_any_look: bool
    missed_once_at_any_look: bool


def trial(world: World, seed: int, *, looks: int = 10, adjust: bool = True) -> Trial:
    """Run one experiment, looked at ``looks`` times while it grows."""
    rng = np.random.default_rng(seed)
    layer = Layer(name="simulated", salt=str(seed), arms={"control": Arm(share=0.5), "treatment": Arm(share=0.5)})
    treated = np.array([layer.arm_of(f"u{user}") == "treatment" for user in range(world.users)])
    rates = rng.gamma(world.shape, world.rate / world.shape, world.users)
    before = rng.poisson(rates).astype(np.float64)
    after = rng.poisson(rates * (1 + world.effect * treated)).astype(np.float64)
    seen = ~(treated & (rng.random(world.users) < world.lost))
    found, missed, missed_once = None, False, False
    for last in np.linspace(world.users / looks, world.users, looks).astype(int):
        part = seen[:last]
        a, b = part & ~treated[:last], part & treated[:last]
        known = (before[:last][a], before[:last][b]) if adjust else None
        found = compare(after[:last][a], after[:last][b], before=known, planned=world.users // 2)
        missed |= not found.always_low <= world.truth <= found.always_high
        missed_once |= not found.low <= world.truth <= found.high
    assert found is not None
    counts = {"control": int((seen & ~treated).sum()), "treatment": int((seen & treated).sum())}
    p = srm(counts, {"control": 0.5, "treatment": 0.5})
    return Trial(once=found, srm_p=p, missed_at_any_look=missed, missed_once_at_any_look=missed_once)
