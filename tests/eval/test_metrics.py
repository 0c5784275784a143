from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.eval.metrics import coverage, exposures, gain_table, gains, gini, metric_names, ranks_of

KS = (1, 3, 5)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_metrics_equal_plain_loops(cases: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(9)[:k] for _ in range(cases)]).astype(np.int32)
    lists[rng.random(cases) < 0.3, -1] = -1
    targets = rng.integers(0, 9, cases)
    expected = dict.fromkeys(metric_names(KS), 0.0)
    for row, target in zip(lists.tolist(), targets.tolist(), strict=True):
        for cut in KS:
            if target in row[:cut]:
                place = row.index(target) + 1
                expected[f"recall@{cut}"] += 1
                expected[f"ndcg@{cut}"] += 1 / math.log2(place + 1)
                expected[f"mrr@{cut}"] += 1 / place
    found = gains(ranks_of(lists, targets), KS).sum(0)
    np.testing.assert_allclose(found, list(expected.values()))


def test_a_first_place_is_worth_one_and_an_absent_target_nothing() -> None:
    table = gain_table(KS)
    assert table[1].tolist() == [1.0] * 9
    assert table[0].tolist() == [0.0] * 9
    assert gains(np.array([9]), KS).sum() == 0  # beyond the largest cut-off


def test_padding_is_never_a_hit() -> None:
    assert ranks_of(np.array([[-1, -1]]), np.array([3])).tolist() == [0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_gini_equals_the_mean_difference(shown: list[int]) -> None:
    expected = sum(abs(a - b) for a in shown for b in shown) / (2 * len(shown) * max(sum(shown), 1))
    assert gini(np.array(shown)) == pytest.approx(expected)


def test_a_collapsed_recommender_shows_one_item_to_everybody() -> None:
    lists = np.full((50, 1), 3, np.int32)
    shown = exposures(lists, 100, 1)
    assert coverage(shown) == 0.01
    assert gini(shown) == pytest.approx(0.99)
    targets = np.arange(50)
    assert gains(ranks_of(lists, targets), KS).mean(0)[0] == pytest.approx(1 / 50)
    assert exposures(np.array([[1, -1]]), 3, 2).tolist() == [0, 1, 0]
