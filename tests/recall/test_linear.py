"""The linear model of baskets: the contract of every channel, the formula, and what it adds to counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.errors import CapacityError, ConfigError
from genrecall.recall import linear
from genrecall.recall.basket import BasketChannel, BasketConfig
from genrecall.recall.channel import Channel
from genrecall.recall.linear import LinearChannel, LinearConfig

from .contract import NUM_ITEMS, ChannelContract, checkerboard


class TestLinear(ChannelContract):
    """Each user's walk is one basket."""

    depth = 4  # it knows no direction

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.file = tmp_path / "state.safetensors"

    def fit(self) -> LinearChannel:
        walks = checkerboard()
        histories = replace(walks, times=walks.rows.astype(np.int64), timed=True)
        return LinearChannel.fit(histories, NUM_ITEMS, LinearConfig(ridge=0.5))

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, LinearChannel)
        save_file(channel.state(), self.file)
        return LinearChannel.from_state(load_file(self.file), channel.config)


def _baskets(rows: list[list[int]]) -> Histories:
    return Histories.from_lists(rows, [[0] * len(row) for row in rows])


def test_weights_are_those_of_the_regressions() -> None:
    """EASE's closed form is a ridge regression of each item on all others."""
    rng = np.random.default_rng(0)
    rows = [sorted(rng.permutation(7)[: rng.integers(2, 5)].tolist()) for _ in range(40)]
    config = LinearConfig(size_damping=0.0, ridge=2.0, target_damping=0.0, neighbours=None)
    matrix = LinearChannel.fit(_baskets(rows), 7, config).neighbours.matrix.toarray()
    owned = np.zeros((40, 7))
    for row, items in enumerate(rows):
        owned[row, items] = 1
    for target in range(7):
        others = [item for item in range(7) if item != target]
        x, y = owned[:, others], owned[:, target]
        weights = np.linalg.solve(x.T @ x + 2.0 * np.eye(6), x.T @ y)
        np.testing.assert_allclose(matrix[others, target], np.maximum(weights, 0), atol=1e-6)
        assert matrix[target, target] == 0


def test_what_another_item_explains_is_not_counted_twice() -> None:
    """1 comes with 0 always, and 2 comes with 0 alone; counts take 1 for a sign of 2, the regression does not."""
    histories = _baskets([[0, 1, 2]] * 20 + [[0, 2]] * 20 + [[1, 0]] * 2 + [[3, 4]] * 5)
    counts = BasketChannel.fit(histories, 5, BasketConfig()).neighbours.matrix
    weights = LinearChannel.fit(histories, 5, LinearConfig(ridge=0.1)).neighbours.matrix
    assert counts[1, 2] > 0.3 * counts[0, 2]
    assert weights[1, 2] < 0.05 * weights[0, 2]


def test_only_the_strongest_are_kept() -> None:
    rng = np.random.default_rng(1)
    histories = _baskets([rng.permutation(30)[:6].tolist() for _ in range(200)])
    every = LinearChannel.fit(histories, 30, LinearConfig(neighbours=None)).neighbours.matrix.toarray()
    few = LinearChannel.fit(histories, 30, LinearConfig(neighbours=3)).neighbours.matrix.toarray()
    assert ((few > 0).sum(1) <= 3).all()
    np.testing.assert_array_equal(few[few > 0], every[few > 0])
    assert (np.where(few > 0, -np.inf, every).max(1) <= np.where(few > 0, few, np.inf).min(1)).all()


def test_too_large_a_catalog_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "MOST_ITEMS", 4)
    with pytest.raises(CapacityError, match="dense inverse"):
        LinearChannel.fit(_baskets([[0, 1]]), 5)


@pytest.mark.parametrize("wrong", [{"session_weight": 2.0}, {"size_damping": -1.0}, {"ridge": 0.0}, {"last": 0}])
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LinearConfig(**wrong)
