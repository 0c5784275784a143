from __future__ import annotations

import time

import numpy as np
import pytest

from genrecall.eval.metrics import gains
from genrecall.eval.significance import Interval, by_unit, intervals, paired, resample


def test_intervals_agree_with_the_binomial() -> None:
    rng = np.random.default_rng(1)
    hits = (rng.random(4000) < 0.2).astype(float)
    (found,) = intervals(hits[:, None], resamples=2000)
    error = 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 4000)
    assert found.mean == pytest.approx(hits.mean())
    assert found.low == pytest.approx(hits.mean() - error, abs=0.002)
    assert found.high == pytest.approx(hits.mean() + error, abs=0.002)


def test_grouped_draws_are_the_plain_bootstrap() -> None:
    values = np.random.default_rng(2).integers(0, 3, (60, 2)).astype(float)
    rng = np.random.default_rng(3)
    plain = np.stack([values[rng.integers(0, 60, 60)].mean(0) for _ in range(4000)])
    ours = resample(values, None, resamples=4000, seed=0)
    np.testing.assert_allclose(ours.mean(0), plain.mean(0), atol=0.01)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(plain.T), atol=0.001)


def test_seeds_repeat_and_blocks_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random((40, 1))
    first = resample(values, None, resamples=50, seed=7)
    np.testing.assert_array_equal(first, resample(values, None, resamples=50, seed=7))
    monkeypatch.setattr("genrecall.eval.significance._WEIGHTS_A_BLOCK", 100)
    assert resample(values, None, resamples=50, seed=7).shape == (50, 1)


def test_cases_of_one_user_move_together() -> None:
    # 20 users with 50 equal cases each: as uncertain as 20 cases, not as 1,000.
    users = np.repeat(np.arange(20), 50)
    values = np.repeat(np.arange(20) % 2, 50).astype(float)[:, None]
    sums, sizes = by_unit(values, users)
    assert sums.shape == (20, 1)
    assert sizes.tolist() == [50.0] * 20
    (alone,), (together,) = intervals(values), intervals(values, users)
    assert together.high - together.low > 4 * (alone.high - alone.low)


def test_a_paired_difference_sees_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(4)
    second = (rng.random(1500) < 0.3).astype(float)
    first = np.where(rng.random(1500) < 0.02, 1.0, second)
    (a,), (b,) = intervals(first[:, None]), intervals(second[:, None])
    assert a.overlaps(b)
    found = paired(first, second)
    assert found.interval.low > 0
    assert found.p_value < 0.01
    assert paired(second, first).interval.mean == pytest.approx(-found.interval.mean)


def test_equal_channels_do_not_differ() -> None:
    same = np.random.default_rng(5).random(100)
    assert paired(same, same).p_value == 1.0


def test_overlap() -> None:
    assert Interval(mean=1, low=0, high=2).overlaps(Interval(mean=3, low=2, high=4))
    assert not Interval(mean=1, low=0, high=2).overlaps(Interval(mean=3, low=2.5, high=4))


def test_four_thousand_cases_take_less_than_a_second() -> None:
    ranks = np.random.default_rng(6).integers(0, 51, 4000)
    start = time.perf_counter()
    intervals(gains(ranks), np.arange(4000))
    assert time.perf_counter() - start < 1.0
