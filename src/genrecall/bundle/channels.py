"""The classic channels of a bundle: fitted together, stored as safetensors beside their configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.recall.basket import BasketChannel, BasketConfig
from genrecall.recall.item_cf import ItemCfChannel, ItemCfConfig
from genrecall.recall.popularity import PopularityChannel, PopularityConfig
from genrecall.recall.transition import TransitionChannel, TransitionConfig, in_baskets

_SETTINGS = "settings.json"
ClassicChannel = PopularityChannel | ItemCfChannel | TransitionChannel | BasketChannel
_KINDS: dict[str, tuple[Any, Any]] = {
    "popularity": (PopularityChannel, PopularityConfig),
    "item_cf": (ItemCfChannel, ItemCfConfig),
    "transition": (TransitionChannel, TransitionConfig),
    "basket": (BasketChannel, BasketConfig),
}


@dataclass(frozen=True, kw_only=True)
class ClassicConfig:
    """Settings of every classic channel.

    Attributes:
        popularity, item_cf: settings.
        transition: None lets the channel choose by its training events.
        basket: None leaves the channel out where events share no times (no baskets).
    """

    popularity: PopularityConfig = field(default_factory=PopularityConfig)
    item_cf: ItemCfConfig = field(default_factory=ItemCfConfig)
    transition: TransitionConfig | None = None
    basket: BasketConfig | None = None


def fit(histories: Histories, num_items: int, config: ClassicConfig | None = None) -> dict[str, ClassicChannel]:
    """Fit all classic channels on training histories."""
    config = config or ClassicConfig()
    settings = {name: getattr(config, name) for name in _KINDS}
    left_out = {"basket"} if config.basket is None and not in_baskets(histories) else set()
    return {
        name: kind.fit(histories, num_items, settings[name])
        for name, (kind, _) in _KINDS.items()
        if name not in left_out
    }


def save(channels: Mapping[str, ClassicChannel], directory: Path) -> None:
    """Write one file a channel, and the settings that they were fitted with."""
    directory.mkdir()
    for name, channel in channels.items():
        state = {key: np.ascontiguousarray(value) for key, value in channel.state().items()}
        save_file(state, directory / f"{name}.safetensors")
    settings = {name: asdict(channel.config) for name, channel in channels.items()}
    (directory / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load(directory: Path) -> dict[str, ClassicChannel]:
    """Read what ``save`` wrote."""
    channels = {}
    for name, settings in json.loads((directory / _SETTINGS).read_text(encoding="utf-8")).items():
        kind, config = _KINDS[name]
        channels[name] = kind.from_state(load_file(directory / f"{name}.safetensors"), config(**settings))
    return channels
