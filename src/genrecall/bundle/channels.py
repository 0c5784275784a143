"""The classic channels of a bundle: fitted together, stored as safetensors beside their configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.recall.item_cf import ItemCfChannel, ItemCfConfig
from genrecall.recall.popularity import PopularityChannel, PopularityConfig
from genrecall.recall.transition import TransitionChannel, TransitionConfig

ClassicChannel = PopularityChannel | ItemCfChannel | TransitionChannel
_KINDS: dict[str, tuple[Any, Any]] = {
    "popularity": (PopularityChannel, PopularityConfig),
    "item_cf": (ItemCfChannel, ItemCfConfig),
    "transition": (TransitionChannel, TransitionConfig),
}


@dataclass(frozen=True, kw_only=True)
class ClassicConfig:
    """Settings of every classic channel."""

    popularity: PopularityConfig = field(default_factory=PopularityConfig)
    item_cf: ItemCfConfig = field(default_factory=ItemCfConfig)
    transition: TransitionConfig = field(default_factory=TransitionConfig)


def fit(histories: Histories, num_items: int, config: ClassicConfig | None = None) -> dict[str, ClassicChannel]:
    """Fit all classic channels on training histories."""
    config = config or ClassicConfig()
    return {name: kind.fit(histories, num_items, getattr(config, name)) for name, (kind, _) in _KINDS.items()}


def save(channels: Mapping[str, ClassicChannel], directory: Path) -> dict[str, dict[str, Any]]:
    """Write one file a channel; returns their configurations for the bundle's manifest."""
    directory.mkdir()
    for name, channel in channels.items():
        save_file(
            {key: np.ascontiguousarray(value) for key, value in channel.state().items()},
            directory / f"{name}.safetensors",
        )
    return {name: asdict(channel.config) for name, channel in channels.items()}


def load(directory: Path, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, ClassicChannel]:
    """Read what ``save`` wrote."""
    channels = {}
    for name, config in configs.items():
        kind, settings = _KINDS[name]
        channels[name] = kind.from_state(load_file(directory / f"{name}.safetensors"), settings(**config))
    return channels
