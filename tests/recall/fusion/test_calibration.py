from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from genrecall.recall.channel import Candidates
from genrecall.recall.fusion.calibration import Calibration, fit_calibration, scaled
from genrecall.recall.fusion.pool import Pool

from .lists import NUM_ITEMS, POPULARITY, answers, several


def drawn(slope: float, requests: int = 4000, reach: float = 0.5) -> tuple[Pool, np.ndarray, int]:
    """Lists whose targets are drawn from softmax(slope * ln score), and from nowhere otherwise."""
    rng = np.random.default_rng(0)
    scores = np.sort(rng.uniform(0.1, 5.0, (requests, 6)).astype(np.float32))[:, ::-1]
    items = np.argsort(rng.random((requests, NUM_ITEMS)), axis=1)[:, :6].astype(np.int32)
    shares = scores**slope / (scores**slope).sum(1, keepdims=True)
    picked = (shares.cumsum(1) < rng.random((requests, 1))).sum(1).clip(0, 5)
    found = np.flatnonzero(rng.random(requests) < reach)
    pool = Pool.of([Candidates(items=items[found], scores=scores[found])], POPULARITY, 6)
    return pool, pool.find(items[found, picked[found]]), requests


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_the_slope_is_recovered(slope: float) -> None:
    pool, goals, cases = drawn(slope)
    fitted = fit_calibration(pool, 0, goals, cases)
    assert fitted.scale == "log"
    assert fitted.slope == pytest.approx(slope, rel=0.1)
    assert fitted.reach == pytest.approx(0.5, abs=0.03)


def test_lift_by_hand() -> None:
    pool = Pool.of([answers([(3, 4.0), (0, 1.0)], [(1, 2.0)]), answers([(5, 1.0)], [])], POPULARITY, 8)
    lift = Calibration(scale="log", slope=0.5, reach=0.6).lift(pool, 0)
    absent = 0.4 / (NUM_ITEMS - 2)
    expected = {0: np.log(0.6 / 3 / absent), 3: np.log(0.6 * 2 / 3 / absent), 5: 0.0, 1: np.log(0.6 / (0.4 / 11))}
    np.testing.assert_allclose(lift, [expected[item] for item in pool.items])
    assert Calibration(scale="log", slope=0.5, reach=0.01).lift(pool, 0).max() == 0.0  # never below an absent item


@settings(deadline=None, max_examples=30)
@given(several(requests=2, channels=2))
def test_calibration_never_reorders_a_list(candidates: dict[str, Candidates]) -> None:
    pool = Pool.of(list(candidates.values()), POPULARITY, 8)
    for channel, scale in ((0, "log"), (1, "plain"), (0, "place")):
        lift = Calibration(scale=scale, slope=1.3, reach=0.7).lift(pool, channel)  # type: ignore[arg-type]
        for row in range(2):
            of_row = (pool.rows == row) & (pool.ranks[:, channel] > 0)
            order = np.argsort(pool.ranks[of_row, channel])
            assert np.all(np.diff(lift[of_row][order]) <= 1e-12)


def test_scores_below_zero_have_no_logarithm_and_an_unheard_channel_keeps_its_places() -> None:
    pool = Pool.of([answers([(3, -1.0), (0, -3.0)]), answers([(2, 1.0)])], POPULARITY, 8)
    assert fit_calibration(pool, 0, pool.find(np.array([3])), 2).scale in ("plain", "place")
    assert fit_calibration(pool, 0, pool.find(np.array([2])), 2) == Calibration(scale="place", slope=1.0, reach=0.25)
    np.testing.assert_allclose(scaled(pool, 0, "place"), [-np.log(2), np.nan, 0.0])
