from __future__ import annotations

from pathlib import Path

import numpy as np

from genrecall.bundle import channels as classic
from genrecall.bundle.channels import ClassicConfig
from genrecall.catalog.histories import Histories
from genrecall.recall.channel import Channel, Query
from genrecall.recall.dense import DenseChannel
from genrecall.recall.fusion import FusedChannel, Fusion, FusionConfig
from genrecall.recall.lexical import LexicalChannel
from genrecall.recall.transition import TransitionConfig

HISTORIES = Histories.from_lists([[0, 1, 2], [1, 2, 3], [0, 2, 4], [4, 3, 0]])
QUERIES = [Query(history=np.array([0, 1], np.int32)), Query(history=np.array([4], np.int32))]


def test_the_counted_channels_are_fitted_by_name() -> None:
    assert list(classic.fit(HISTORIES, 5)) == ["popularity", "item_cf", "transition"]
    config = ClassicConfig(transition_undirected=TransitionConfig(directed=False, window=1))
    fitted = classic.fit(HISTORIES, 5, config)
    assert [channel.name for channel in fitted.values()] == list(fitted)
    assert "transition_undirected" in fitted
    assert not np.array_equal(
        fitted["transition"].recall(QUERIES, 5).scores, fitted["transition_undirected"].recall(QUERIES, 5).scores
    )


def test_every_kind_comes_back_from_disk(tmp_path: Path) -> None:
    counts = HISTORIES.item_counts(5)
    config = ClassicConfig(transition_undirected=TransitionConfig(directed=False))
    channels = classic.fit(HISTORIES, 5, config)
    channels["lexical"] = LexicalChannel.fit(["a b", "b c", "c d", "d e", "e a"], counts)
    channels["dense"] = DenseChannel.fit(np.eye(5, dtype=np.float32) + 0.1, counts)
    fusion = Fusion(FusionConfig(channels=tuple(channels), top=4), counts)
    fused = FusedChannel(list(channels.values()), fusion)
    classic.save({**channels, "fused": fused}, tmp_path / "channels")

    loaded = classic.load(tmp_path / "channels")
    assert list(loaded) == list(channels)
    again = classic.load_fused(tmp_path / "channels", list(loaded.values()))
    assert again is not None
    before: dict[str, Channel] = {**channels, "fused": fused}
    after: dict[str, Channel] = {**loaded, "fused": again}
    for name, channel in after.items():
        assert channel.name == name
        found, expected = channel.recall(QUERIES, 5), before[name].recall(QUERIES, 5)
        np.testing.assert_array_equal(found.items, expected.items)
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_bundle_without_fusion_has_none(tmp_path: Path) -> None:
    classic.save(classic.fit(HISTORIES, 5), tmp_path / "channels")
    assert classic.load_fused(tmp_path / "channels", []) is None
