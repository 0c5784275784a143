"""The served two towers against the trained ones, and the index against the exact lists."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrecall.errors import ConfigError, DependencyError
from genrecall.recall.ann import IndexConfig, VectorIndex, overlap
from genrecall.recall.channel import Channel, Query
from genrecall.recall.selection import Popularity
from genrecall.recall.towers import TowersChannel, TowersConfig
from genrecall.recall.two_tower import TwoTowerChannel, TwoTowerConfig
from genrecall.train.sequence.config import SequenceConfig

from .contract import NUM_ITEMS, ChannelContract, ask, checkerboard, rows

TRAIN = SequenceConfig(window=8, lengths=(4,), batch_tokens=64, learning_rate=5e-2, epochs=8, device="cpu")
PROFILES = [{"country": "DE" if user % 2 else "FR"} for user in range(24)]
_TRAINED: list[TwoTowerChannel] = []


def trained() -> TwoTowerChannel:
    if not _TRAINED:
        config = TwoTowerConfig(width=16, dropout=0.1, negatives=8, train=TRAIN)
        text = np.random.default_rng(0).normal(size=(NUM_ITEMS, 6))
        fitted = TwoTowerChannel.fit(
            checkerboard(), NUM_ITEMS, config, vectors=text, profile_of=lambda user: PROFILES[user]
        )
        _TRAINED.append(fitted)
    return _TRAINED[0]


class TestTowers(ChannelContract):
    index = IndexConfig()

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def fit(self) -> TowersChannel:
        return TowersChannel.of(trained(), self.index)

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, TowersChannel)
        save_file(channel.state(), self.directory / "state.safetensors")
        settings = json.loads(json.dumps(asdict(channel.config)))
        return TowersChannel.from_state(load_file(self.directory / "state.safetensors"), TowersConfig(**settings))

    def test_it_answers_as_the_trained_channel(self) -> None:
        queries = [
            Query(history=np.array(history, np.int32), exclude=np.array([1], np.int32), profile=profile)
            for history in ([0], [3, 5], [2, 4, 6, 8, 10, 12, 14, 0, 2, 4], [999, 7], [])
            for profile in ({}, {"country": "DE"}, {"country": "XX", "age": "3"})
        ]
        found, expected = self.fit().recall(queries, NUM_ITEMS), trained().recall(queries, NUM_ITEMS)
        assert rows(found) == rows(expected)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


class TestTowersByGraph(TestTowers):
    index = IndexConfig(kind="hnsw", links=8)


def _vectors(items: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(0)
    themes = rng.normal(size=(50, 24))
    vectors = themes[rng.integers(0, 50, items)] + 0.5 * rng.normal(size=(items, 24))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_the_graph_finds_nearly_all_and_never_what_is_excluded() -> None:
    vectors = _vectors()
    popularity = Popularity(np.random.default_rng(1).integers(0, 50, len(vectors)).astype(np.float64))
    exact, graph = (VectorIndex(vectors, popularity, IndexConfig(kind=kind)) for kind in ("exact", "hnsw"))
    rng = np.random.default_rng(2)
    asked = vectors[rng.integers(0, len(vectors), 60)]
    for share in (0.0, 0.3, 0.9, 0.999):
        exclude = [rng.permutation(len(vectors))[: int(share * len(vectors))] for _ in asked]
        exclude[0] = np.append(exclude[0], [-4, 10**6])
        found, scores = graph.search(asked, exclude, 20)
        expected, best = exact.search(asked, exclude, 20)
        assert overlap(found, expected, 20) > 0.97
        for row, barred in zip(found, exclude, strict=True):
            assert not np.isin(row[row >= 0], barred).any()
        assert (np.diff(np.where(np.isneginf(scores), -9, scores), axis=1) <= 1e-6).all()
        if share > 0.5:  # such queries are answered exactly
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(scores, best)


def test_a_narrow_search_is_measured_as_what_it_is() -> None:
    vectors = _vectors(6000)
    popularity = Popularity(np.ones(len(vectors)))
    narrow = VectorIndex(vectors, popularity, IndexConfig(kind="hnsw", links=2, build_width=4, search_width=10))
    exact = VectorIndex(vectors, popularity, IndexConfig(kind="exact"))
    nothing = [np.empty(0, np.int64)] * 50
    share = overlap(narrow.search(vectors[:50], nothing, 10)[0], exact.search(vectors[:50], nothing, 10)[0], 10)
    assert share < 0.95


def test_what_export_reports_of_an_index() -> None:
    channel = TowersChannel.of(trained(), IndexConfig(kind="hnsw", links=8))
    quality = channel.quality([ask(0), ask(3, 5, exclude=(7,))], (5, 100))
    assert quality == {
        "index": "hnsw",
        "queries": 2,
        "recall of the exact first 5": 1.0,
        "recall of the exact first 100": 1.0,
    }


def test_what_cannot_be_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such index"):
        IndexConfig(kind="tree")  # type: ignore[arg-type]
    assert IndexConfig().resolved(50_000) == "exact"
    assert IndexConfig().resolved(50_001) == "hnsw"
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DependencyError, match="faiss-cpu"):
        TowersChannel.of(trained(), IndexConfig(kind="hnsw"))
