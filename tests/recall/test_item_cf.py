from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall import item_cf
from genrecall.recall.channel import Channel
from genrecall.recall.item_cf import ItemCfChannel, ItemCfConfig, user_item_matrix

from .contract import NUM_ITEMS, ChannelContract, checkerboard

BASKETS = st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=8)


class TestCosine(ChannelContract):
    config = ItemCfConfig()

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.file = tmp_path / "state.safetensors"

    def fit(self) -> ItemCfChannel:
        return ItemCfChannel.fit(checkerboard(), NUM_ITEMS, self.config)

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, ItemCfChannel)
        save_file(channel.state(), self.file)
        return ItemCfChannel.from_state(load_file(self.file), channel.config)


class TestSwing(TestCosine):
    config = ItemCfConfig(similarity="swing")
    depth = 4  # it knows no direction


def similarities(histories: list[list[int]], config: ItemCfConfig) -> np.ndarray:
    channel = ItemCfChannel.fit(Histories.from_lists(histories), 7, config)
    return channel.neighbours.matrix.toarray()


@settings(deadline=None, max_examples=15)
@given(BASKETS, st.sampled_from([0.0, 2.5]), st.sampled_from([0.5, 0.8]))
def test_cosine_equals_its_formula(histories: list[list[int]], shrinkage: float, power: float) -> None:
    users = [{user for user, row in enumerate(histories) if item in row} for item in range(7)]
    expected = np.zeros((7, 7))
    for i in range(7):
        for j in range(7):
            if i != j and users[i] & users[j]:
                divisor = len(users[i]) ** (1 - power) * len(users[j]) ** power + shrinkage
                expected[i, j] = len(users[i] & users[j]) / divisor
    config = ItemCfConfig(neighbours=None, shrinkage=shrinkage, popularity_power=power)
    found = similarities(histories, config)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@settings(deadline=None, max_examples=15)
@given(BASKETS, st.sampled_from([0.0, 1.0]))
def test_swing_equals_its_formula(histories: list[list[int]], alpha: float) -> None:
    baskets = [set(row) for row in histories]
    expected = np.zeros((7, 7))
    for i in range(7):
        for j in range(7):
            both = [basket for basket in baskets if {i, j} <= basket]
            for u in range(len(both)):
                for v in range(u + 1, len(both)):
                    weight = (len(both[u]) * len(both[v])) ** -0.5
                    expected[i, j] += (i != j) * weight / (alpha + len(both[u] & both[v]))
    found = similarities(histories, ItemCfConfig(similarity="swing", neighbours=None, alpha=alpha))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_blocks_and_caps_change_nothing_where_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = checkerboard()
    whole = ItemCfChannel.fit(histories, NUM_ITEMS).neighbours.matrix
    monkeypatch.setattr(item_cf, "_PAIRS_A_BLOCK", 40)
    np.testing.assert_array_equal(ItemCfChannel.fit(histories, NUM_ITEMS).neighbours.matrix.toarray(), whole.toarray())


@pytest.mark.parametrize("similarity", ["cosine", "swing"])
def test_only_the_strongest_neighbours_stay(similarity: Any) -> None:
    histories = checkerboard()
    whole = ItemCfChannel.fit(histories, NUM_ITEMS, ItemCfConfig(similarity=similarity, neighbours=None))
    cut = ItemCfChannel.fit(histories, NUM_ITEMS, ItemCfConfig(similarity=similarity, neighbours=3))
    full, kept = whole.neighbours.matrix.toarray(), cut.neighbours.matrix.toarray()
    for row, strongest in zip(full, kept, strict=True):
        assert np.count_nonzero(strongest) == min(3, np.count_nonzero(row))
        np.testing.assert_array_equal(np.sort(row)[::-1][:3], np.sort(strongest)[::-1][:3])


def test_a_user_counts_with_the_newest_distinct_items() -> None:
    owned = user_item_matrix(Histories.from_lists([[0, 1, 0, 2, 2, 3], [], [4]]), 5, user_items=2)
    assert owned.toarray().tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    owned = user_item_matrix(Histories.from_lists([[0, 1, 0]]), 2, user_items=1)
    assert owned.toarray().tolist() == [[1, 0]]


def test_swing_caps_the_users_of_an_item() -> None:
    config = ItemCfConfig(similarity="swing", item_users=4)
    matrix = ItemCfChannel.fit(Histories.from_lists([[0, 1]] * 50), 2, config).neighbours.matrix
    np.testing.assert_allclose(matrix.toarray()[0, 1], 6 * 0.5 / 3, rtol=1e-6)  # 4 users make 6 pairs


@pytest.mark.parametrize(
    "wrong", [{"similarity": "odd"}, {"user_items": 1}, {"item_users": 1}, {"alpha": -1.0}, {"popularity_power": 2.0}]
)
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ItemCfConfig(**wrong)
