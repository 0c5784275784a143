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
from genrecall.recall.channel import Channel
from genrecall.recall.transition import TransitionChannel, TransitionConfig, count_transitions, suited_to

from .contract import NUM_ITEMS, ChannelContract, ask, checkerboard, rows


class TestForward(ChannelContract):
    config = TransitionConfig()

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.file = tmp_path / "state.safetensors"

    def fit(self) -> TransitionChannel:
        return TransitionChannel.fit(checkerboard(), NUM_ITEMS, self.config)

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, TransitionChannel)
        save_file(channel.state(), self.file)
        return TransitionChannel.from_state(load_file(self.file), channel.config)


class TestBothWays(TestForward):
    config = TransitionConfig(window=6, directed=False, distance="flat", target_damping=0.5, neighbours=12)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.lists(st.integers(0, 5), max_size=7), min_size=1, max_size=5),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(["inverse", "halving", "flat"]),
)
def test_counts_equal_plain_loops(histories: list[list[int]], window: int, directed: bool, rule: Any) -> None:
    config = TransitionConfig(window=window, directed=directed, distance=rule)
    expected = np.zeros((6, 6))
    for row in histories:
        for a in range(len(row)):
            for b in range(a + 1, min(a + window, len(row) - 1) + 1):
                weight = {"inverse": 1 / (b - a), "halving": 0.5 ** (b - a - 1), "flat": 1.0}[rule]
                expected[row[a], row[b]] += weight
                if not directed:
                    expected[row[b], row[a]] += weight
    counted = count_transitions(Histories.from_lists(histories), 6, config)
    np.testing.assert_allclose(counted.toarray(), expected)


def test_damping_and_decay_by_hand() -> None:
    histories = Histories.from_lists([[0, 1], [0, 1], [0, 2], [3, 2], [2, 4], [2, 4]])
    config = TransitionConfig(window=1, source_damping=0.5, target_damping=1.0, decay=0.5)
    channel = TransitionChannel.fit(histories, 5, config)
    answer = channel.recall([ask(2, 0)], 3)
    # From 0 (newest): item 1 2/√3/3, item 2 1/√3/5; from 2 (one older): item 4 ½·2/√2/3.
    assert rows(answer) == [[1, 4, 2]]
    np.testing.assert_allclose(answer.scores[0], [2 / 3**0.5 / 3, 0.5 * 2 / 2**0.5 / 3, 1 / 3**0.5 / 5], rtol=1e-6)


def test_equal_scores_go_to_the_more_popular_then_to_the_lower_index() -> None:
    histories = Histories.from_lists([[0, 5], [0, 4], [0, 3], [3, 1], [4, 2]])
    channel = TransitionChannel.fit(histories, 7, TransitionConfig(window=1, source_damping=0))
    assert rows(channel.recall([ask(0)], 7)) == [[3, 4, 5, 0, 1, 2, 6]]
    assert rows(channel.recall([ask(0)], 1)) == [[3]]


def test_baskets_are_told_from_sequences() -> None:
    rows_, times = [[1, 2, 3, 4]] * 3, [[0, 0, 0, 5]] * 3
    assert not suited_to(Histories.from_lists(rows_, times)).directed
    assert suited_to(Histories.from_lists(rows_, [[0, 1, 2, 3]] * 3)).directed
    assert suited_to(Histories.from_lists(rows_, times, timed=False)).directed
    assert suited_to(Histories.from_lists([[], [1]])) == TransitionConfig()
    assert TransitionChannel.fit(Histories.from_lists(rows_, times), 5).config.distance == "flat"


def test_only_the_newest_items_are_read() -> None:
    channel = TransitionChannel.fit(Histories.from_lists([[0, 1], [2, 3]]), 4, TransitionConfig(last=1, decay=1.0))
    assert rows(channel.recall([ask(0, 2)], 1)) == [[3]]


@pytest.mark.parametrize("wrong", [{"window": 0}, {"decay": 0.0}, {"last": 0}, {"distance": "far"}, {"neighbours": 0}])
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TransitionConfig(**wrong)


def test_two_of_a_class_stand_side_by_side() -> None:
    forward = TransitionChannel.fit(checkerboard(), NUM_ITEMS)
    other = forward.named("transition_undirected")
    assert (forward.name, other.name) == ("transition", "transition_undirected")
    np.testing.assert_array_equal(other.recall([ask(0)], 5).items, forward.recall([ask(0)], 5).items)
