from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Channel, Query
from genrecall.recall.segments import SegmentChannel, SegmentConfig

from .contract import NUM_ITEMS, ChannelContract, checkerboard


class TestSegments(ChannelContract):
    personal = False

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def fit(self) -> SegmentChannel:
        config = SegmentConfig(column="country")
        return SegmentChannel.fit(checkerboard(), NUM_ITEMS, config, lambda user: {"country": "even"})

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, SegmentChannel)
        save_file(channel.state(), self.directory / "state.safetensors")
        settings = json.loads(json.dumps(asdict(channel.config)))
        return SegmentChannel.from_state(load_file(self.directory / "state.safetensors"), SegmentConfig(**settings))


def test_each_segment_has_its_own_list_and_small_ones_lean_on_everybody() -> None:
    histories = Histories.from_lists([[0, 0, 1]] * 6 + [[2, 2, 3]] * 6 + [[4]])
    country = ["DE"] * 6 + ["FR"] * 6 + ["IT"]
    config = SegmentConfig(column="country", prior=9.0)
    channel = SegmentChannel.fit(histories, 5, config, lambda user: {"country": country[user]})
    assert channel.segments == ["DE", "FR"]  # one user is no segment
    asked = [Query(profile={"country": name}, exclude=np.array([9], np.int32)) for name in ("DE", "FR", "IT")]
    found = channel.recall([*asked, Query()], 5)
    assert found.items[0, :2].tolist() == [0, 1]
    assert found.items[1, :2].tolist() == [2, 3]
    total = histories.item_counts(5)
    expected = (np.array([12, 6, 0, 0, 0]) + 9.0 * total / total.sum()) / (18 + 9.0)
    np.testing.assert_allclose(found.scores[0], np.sort(expected)[::-1], rtol=1e-6)
    assert (found.scores[2:] == 0).all()  # nothing is known of this segment
    assert found.items[2].tolist() == found.items[3].tolist() == [0, 2, 1, 3, 4]


def test_a_column_that_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no segment has enough users"):
        SegmentChannel.fit(checkerboard(), NUM_ITEMS, SegmentConfig(column="age"), lambda user: {})
