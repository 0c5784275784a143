from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.sid.collaborative import CollaborativeConfig, co_occurrences, collaborative_vectors
from genrecall.sid.fusion import Fusion, ridge


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"window": 0}, {"basket": -1}, {"smoothing": 0.0}, {"power_steps": -1}])
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CollaborativeConfig(**wrong)


def counts_of(histories: Histories, items: int, **windows: int) -> np.ndarray:
    left, right, counts = co_occurrences(histories, items, **windows)
    dense = np.zeros((items, items))
    dense[left, right] = counts
    return dense


def test_neighbours_are_within_the_window_of_one_user() -> None:
    histories = Histories.from_lists([[0, 1, 2, 0], [3, 4]])
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 2] = expected[2, 0] = expected[3, 4] = 1
    assert np.array_equal(counts_of(histories, 5, window=1, basket=1), expected + expected.T)


def test_equal_times_are_neighbours_beyond_the_window() -> None:
    rows, times = [[0, 1, 2, 3]], [[5, 5, 5, 9]]
    near = counts_of(Histories.from_lists(rows, times), 4, window=1, basket=3)
    assert near[0, 2] == 1  # one basket
    assert near[0, 3] == near[1, 3] == 0
    untimed = counts_of(Histories.from_lists(rows, times, timed=False), 4, window=1, basket=3)
    assert untimed[0, 2] == 0


@pytest.mark.parametrize("at_once", [3, 8_000_000])
def test_counts_agree_with_plain_loops(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr("genrecall.sid.collaborative._PAIRS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 6, rng.integers(0, 12)).tolist() for _ in range(20)]
    times = [np.sort(rng.integers(0, 4, len(row))).tolist() for row in rows]
    expected = np.zeros((6, 6))
    for row, stamps in zip(rows, times, strict=True):
        for i in range(len(row)):
            for j in range(i + 1, len(row)):
                if row[i] != row[j] and (j - i <= 2 or (j - i <= 4 and stamps[i] == stamps[j])):
                    expected[row[i], row[j]] += 1
                    expected[row[j], row[i]] += 1
    assert np.array_equal(counts_of(Histories.from_lists(rows, times), 6, window=2, basket=4), expected)


def themes(users: int = 80, items: int = 40) -> Histories:
    rng = np.random.default_rng(0)
    return Histories.from_lists([(rng.permutation(items // 4)[:8] * 4 + user % 4).tolist() for user in range(users)])


def test_items_bought_together_are_near() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    vectors = collaborative_vectors(themes(), 42, config=CollaborativeConfig(dim=8))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(vectors, collaborative_vectors(themes(), 42, config=CollaborativeConfig(dim=8)))
    assert not vectors[40:].any()  # never seen
    cosines = vectors[:40] @ vectors[:40].T
    together = np.arange(40)[:, None] % 4 == np.arange(40) % 4
    assert cosines[together].mean() > 0.5
    assert abs(cosines[~together].mean()) < 0.2


def test_no_events_give_zeros() -> None:
    assert not collaborative_vectors(Histories.from_lists([[1], []]), 3).any()


def test_weight_is_the_share_of_squared_distance() -> None:
    rng = np.random.default_rng(0)
    text, behaviour = rng.normal(size=(400, 6)).astype(np.float32), rng.normal(size=(400, 3)).astype(np.float32)
    fused = Fusion.fit(text * 50 + 3, behaviour, 0.25)(text * 50 + 3, behaviour)
    assert fused.dtype == np.float32
    spread = np.square(fused - fused.mean(0)).sum(1).mean()
    assert np.square(fused[:, 6:] - fused[:, 6:].mean(0)).sum(1).mean() / spread == pytest.approx(0.25, abs=0.02)


def test_new_items_get_the_behaviour_that_their_text_predicts() -> None:
    rng = np.random.default_rng(0)
    text = rng.normal(size=(300, 8)).astype(np.float32)
    behaviour = (text @ rng.normal(size=(8, 4))).astype(np.float32)
    behaviour[:10] = 0  # items without events
    fusion = Fusion.fit(text, behaviour, 0.5)
    truth = fusion(text[10:], behaviour[10:])[:, 8:]
    guess = fusion(text[10:])[:, 8:]
    assert np.square(truth - guess).sum() < 0.2 * np.square(truth).sum()
    assert np.array_equal(fusion(text, behaviour)[:10], fusion(text[:10]))
    again = Fusion.from_state(fusion.state())
    assert np.allclose(again(text), fusion(text))


def test_ridge_gives_up_on_noise_and_trusts_signal() -> None:
    rng = np.random.default_rng(0)
    inputs, weights = rng.normal(size=(200, 10)), rng.normal(size=(10, 2))
    assert np.allclose(ridge(inputs, inputs @ weights), weights, atol=0.01)
    assert np.abs(ridge(inputs[:20], rng.normal(size=(20, 2)))).max() < 0.5
    assert not ridge(inputs[:1], np.ones((1, 2))).any()
