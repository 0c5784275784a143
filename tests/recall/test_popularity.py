from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Channel
from genrecall.recall.popularity import PopularityChannel, PopularityConfig

from .contract import NUM_ITEMS, ChannelContract, ask, checkerboard, rows

DAY = 86_400


class TestPopularity(ChannelContract):
    personal = False

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.file = tmp_path / "state.safetensors"

    def fit(self) -> PopularityChannel:
        return PopularityChannel.fit(checkerboard(), NUM_ITEMS)

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, PopularityChannel)
        save_file(channel.state(), self.file)
        return PopularityChannel.from_state(load_file(self.file), channel.config)


def test_old_events_fade() -> None:
    histories = Histories.from_lists([[0, 0, 0, 1, 1]], [[0, 0, 0, 10 * DAY, 10 * DAY]])
    plain = PopularityChannel.fit(histories, 2)
    decayed = PopularityChannel.fit(histories, 2, PopularityConfig(half_life_days=5))
    assert rows(plain.recall([ask()], 2)) == [[0, 1]]
    assert rows(decayed.recall([ask()], 2)) == [[1, 0]]
    np.testing.assert_allclose(decayed.recall([ask()], 2).scores, [[2.0, 0.75]])


def test_fading_needs_timestamps() -> None:
    with pytest.raises(ConfigError, match="timestamps"):
        PopularityChannel.fit(checkerboard(), NUM_ITEMS, PopularityConfig(half_life_days=5))
    with pytest.raises(ConfigError, match="positive"):
        PopularityConfig(half_life_days=0)
