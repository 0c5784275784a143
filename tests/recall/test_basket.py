"""Basket counts: the contract of every channel, and the formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.basket import BasketChannel, BasketConfig
from genrecall.recall.channel import Channel, Query

from .contract import NUM_ITEMS, ChannelContract, checkerboard

BASKETS = [[[0, 1, 2], [3, 4]], [[1, 2], [0]], [[3, 4, 1]]]


class TestBasket(ChannelContract):
    """Each user's walk is one basket."""

    depth = 4  # it knows no direction

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.file = tmp_path / "state.safetensors"

    def fit(self) -> BasketChannel:
        walks = checkerboard()
        return BasketChannel.fit(replace(walks, times=walks.rows.astype(np.int64), timed=True), NUM_ITEMS)

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, BasketChannel)
        save_file(channel.state(), self.file)
        return BasketChannel.from_state(load_file(self.file), channel.config)


def _histories() -> Histories:
    rows = [[item for basket in user for item in basket] for user in BASKETS]
    times = [[number for number, basket in enumerate(user) for _ in basket] for user in BASKETS]
    return Histories.from_lists(rows, times)


def _expected(config: BasketConfig) -> np.ndarray:
    matrix, counts = np.zeros((5, 5)), np.zeros(5)
    for user in BASKETS:
        for basket in user:
            for i in basket:
                counts[i] += 1
                for j in basket:
                    if i != j:
                        matrix[i, j] += (len(basket) - 1) ** -config.size_damping
    return matrix / np.sqrt(np.outer(counts, counts))


def test_counts_are_those_of_the_formula() -> None:
    config = BasketConfig()
    channel = BasketChannel.fit(_histories(), 5, config)
    np.testing.assert_allclose(channel.neighbours.matrix.toarray(), _expected(config), rtol=1e-5)


def test_the_newest_basket_counts_more() -> None:
    config = BasketConfig(decay=0.9, session_weight=0.2)
    channel = BasketChannel.fit(_histories(), 5, config)
    query = Query(history=np.array([0, 3], np.int32), times=np.array([1, 2]), exclude=np.array([0, 3], np.int32))
    scores = 0.9 * 0.2 * _expected(config)[0] + _expected(config)[3]
    found = channel.recall([query], 3)
    best = sorted((i for i in (1, 2, 4)), key=lambda i: -scores[i])
    assert found.items[0].tolist() == best
    np.testing.assert_allclose(found.scores[0], scores[best], rtol=1e-5)


def test_without_times_all_history_counts_alike() -> None:
    channel = BasketChannel.fit(_histories(), 5)
    alike = BasketChannel.fit(_histories(), 5, BasketConfig(session_weight=1.0))
    query = Query(history=np.array([0, 3], np.int32))
    np.testing.assert_array_equal(channel.recall([query], 5).scores, alike.recall([query], 5).scores)


def test_a_stored_channel_reads_sessions_alike() -> None:
    channel = BasketChannel.fit(_histories(), 5, BasketConfig(session_weight=0.2))
    again = BasketChannel.from_state(channel.state(), channel.config)
    query = Query(history=np.array([0, 1], np.int32), times=np.array([3, 4]))
    np.testing.assert_array_equal(channel.recall([query], 5).scores, again.recall([query], 5).scores)


@pytest.mark.parametrize("wrong", [{"session_weight": 2.0}, {"size_damping": -1.0}, {"decay": 0.0}, {"last": 0}])
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BasketConfig(**wrong)


def test_events_without_times_have_no_baskets() -> None:
    ordered = Histories.from_lists([[0, 1, 2]])
    assert BasketChannel.fit(ordered, 3).neighbours.matrix.nnz == 0
