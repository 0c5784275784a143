from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrecall.errors import ConfigError
from genrecall.recall.channel import Channel, Query
from genrecall.recall.dense import DenseChannel, DenseConfig

from .contract import COLOURS, NUM_ITEMS, ROUNDS, ChannelContract, ask, checkerboard, rows


def ring() -> np.ndarray:
    """Items of a colour lie on a circle, in the order in which users walk them; the two unseen ones elsewhere."""
    vectors = np.zeros((NUM_ITEMS, 2 * COLOURS + 2), np.float32)
    for item in range(COLOURS * ROUNDS):
        angle = 2 * np.pi * (item // COLOURS) / ROUNDS
        vectors[item, 2 * (item % COLOURS) : 2 * (item % COLOURS) + 2] = np.cos(angle), np.sin(angle)
    vectors[-2:, -2:] = np.eye(2)
    return vectors


class TestDense(ChannelContract):
    config = DenseConfig(last=2)
    depth = 1

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.file = tmp_path / "state.safetensors"

    def fit(self) -> DenseChannel:
        return DenseChannel.fit(ring(), checkerboard().item_counts(NUM_ITEMS), self.config)

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, DenseChannel)
        save_file(channel.state(), self.file)
        return DenseChannel.from_state(load_file(self.file), channel.config)


class TestUncentred(TestDense):
    config = DenseConfig(last=2, centred=False)


def test_scores_are_cosines_of_the_decayed_mean() -> None:
    vectors = np.array([[2, 0], [0, 3], [1, 1], [-1, 0]], np.float32)
    channel = DenseChannel.fit(vectors, np.zeros(4), DenseConfig(centred=False, decay=0.5))
    answer = channel.recall([ask(0, 1, exclude=(0, 1))], 4)
    asked = np.array([0.5, 1.0]) / np.sqrt(1.25)
    assert rows(answer) == [[2, 3]]
    np.testing.assert_allclose(answer.scores[0, :2], [asked.sum() / np.sqrt(2), -asked[0]], rtol=1e-6)


def test_centring_removes_what_all_vectors_share() -> None:
    vectors = np.array([[9, 1], [9, -1], [9, 0.5]], np.float32)
    found = DenseChannel.fit(vectors, np.zeros(3)).recall([ask(0, exclude=(0,))], 2)
    assert found.scores[0, 1] < 0 < found.scores[0, 0]
    assert DenseChannel.fit(vectors, np.zeros(3), DenseConfig(centred=False)).recall([ask(0)], 3).scores.min() > 0.9


def test_a_search_text_is_encoded_and_the_history_is_not_read() -> None:
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    asked: list[str] = []

    def encode(texts: Any) -> np.ndarray:
        asked.extend(texts)
        return np.tile(np.array([0.0, 5.0]), (len(texts), 1))

    channel = DenseChannel.fit(vectors, np.zeros(3), DenseConfig(centred=False), encode)
    found = channel.recall([Query(text="up", history=np.array([0], np.int32)), ask(2), ask()], 1)
    assert rows(found) == [[1], [2], [0]]
    assert asked == ["up"]
    later = DenseChannel.from_state(channel.state(), channel.config).with_encoder(encode)
    assert rows(later.recall([Query(text="up")], 1)) == [[1]]
    with pytest.raises(ConfigError, match="encoder"):
        DenseChannel.fit(vectors, np.zeros(3)).recall([Query(text="up")], 1)


def test_places_are_those_of_the_lists() -> None:
    rng = np.random.default_rng(1)
    vectors = np.repeat(rng.normal(size=(9, 4)).astype(np.float32), 2, axis=0)  # every vector twice: ties
    channel = DenseChannel.fit(vectors, rng.integers(0, 3, NUM_ITEMS), DenseConfig())
    queries = [ask(*rng.integers(0, 18, 3), exclude=tuple(rng.integers(-2, 20, 4))) for _ in range(40)]
    targets = rng.integers(0, NUM_ITEMS, 40)
    listed = rows(channel.recall(queries, NUM_ITEMS))
    expected = [row.index(goal) + 1 if goal in row else 0 for row, goal in zip(listed, targets, strict=True)]
    assert channel.places(queries, targets).tolist() == expected


def test_items_without_a_vector_are_never_near() -> None:
    vectors = np.array([[0, 0], [1, 0], [1, 1]], np.float32)
    channel = DenseChannel.fit(vectors, np.array([9, 0, 0]), DenseConfig(centred=False))
    assert rows(channel.recall([ask(1)], 3)) == [[1, 2, 0]]


@pytest.mark.parametrize("wrong", [{"decay": 0.0}, {"last": 0}])
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DenseConfig(**wrong)
