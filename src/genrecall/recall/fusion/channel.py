"""The fused channel: asks its channels and joins their lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.fusion.rule import Explained, Fusion, FusionConfig


class FusedChannel:
    """Answers with what several channels find together.

    Each query goes to every channel with its exclusions, so that excluded items never come.

    Args:
        channels: by their own names; those that the fusion does not name are not asked.
        fusion: how their lists are joined.
    """

    name = "fused"

    def __init__(self, channels: Sequence[Channel], fusion: Fusion) -> None:
        by_name = {channel.name: channel for channel in channels}
        missing = [name for name in fusion.config.channels if name not in by_name]
        if missing:
            raise ConfigError(
                "the fusion names channels that are not there",
                seen=", ".join(by_name) or "no channels",
                allowed=f"the channels {', '.join(fusion.config.channels)}",
                fix=f"add {', '.join(missing)}, or fit the fusion without",
            )
        self.channels = [by_name[name] for name in fusion.config.channels]
        self.fusion = fusion

    @property
    def config(self) -> FusionConfig:
        """Settings of the fusion."""
        return self.fusion.config

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query."""
        return self.fusion.fuse(self.candidates(queries, k), k, _lengths(queries))

    def explain(self, queries: Sequence[Query], k: int) -> list[list[Explained]]:
        """``recall``, with each channel's place and score of every item."""
        return self.fusion.explain(self.candidates(queries, k), k, _lengths(queries))

    def candidates(self, queries: Sequence[Query], k: int = 0) -> dict[str, Candidates]:
        """Each channel's lists, at least ``k`` long."""
        depth = max(k, self.config.top)
        return {channel.name: channel.recall(queries, depth) for channel in self.channels}

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that, with the configuration and the channels, make the channel again."""
        return self.fusion.state()

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: FusionConfig, channels: Sequence[Channel]) -> Self:
        """The channel whose ``state()`` this was."""
        return cls(channels, Fusion.from_state(state, config))


def _lengths(queries: Sequence[Query]) -> np.ndarray:
    return np.array([len(query.history) for query in queries], dtype=np.int64)
