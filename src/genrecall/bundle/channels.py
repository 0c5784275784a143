"""The classic channels of a bundle: fitted together, stored as safetensors beside their configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.basket import BasketChannel, BasketConfig
from genrecall.recall.channel import Channel
from genrecall.recall.dense import DenseChannel, DenseConfig
from genrecall.recall.fusion import FusedChannel, Fusion, FusionConfig
from genrecall.recall.item_cf import ItemCfChannel, ItemCfConfig
from genrecall.recall.lexical import LexicalChannel, LexicalConfig
from genrecall.recall.linear import LinearChannel, LinearConfig
from genrecall.recall.popularity import PopularityChannel, PopularityConfig
from genrecall.recall.transition import TransitionChannel, TransitionConfig, in_baskets

_SETTINGS = "settings.json"
_FUSED = "fused"
ClassicChannel = (
    PopularityChannel
    | ItemCfChannel
    | TransitionChannel
    | BasketChannel
    | LinearChannel
    | LexicalChannel
    | DenseChannel
)
_COUNTED = ("popularity", "item_cf", "transition", "transition_undirected", "basket", "linear")
_KINDS: dict[str, tuple[Any, Any]] = {
    "popularity": (PopularityChannel, PopularityConfig),
    "item_cf": (ItemCfChannel, ItemCfConfig),
    "transition": (TransitionChannel, TransitionConfig),
    "transition_undirected": (TransitionChannel, TransitionConfig),
    "basket": (BasketChannel, BasketConfig),
    "linear": (LinearChannel, LinearConfig),
    "lexical": (LexicalChannel, LexicalConfig),
    "dense": (DenseChannel, DenseConfig),
}


@dataclass(frozen=True, kw_only=True)
class ClassicConfig:
    """Settings of every classic channel.

    Attributes:
        popularity, item_cf: settings.
        transition: None lets the channel choose by its training events.
        transition_undirected: None leaves this second transition channel out.
        basket: None leaves the channel out where events share no times (no baskets).
        linear: None leaves this second channel of baskets out.
    """

    popularity: PopularityConfig = field(default_factory=PopularityConfig)
    item_cf: ItemCfConfig = field(default_factory=ItemCfConfig)
    transition: TransitionConfig | None = None
    transition_undirected: TransitionConfig | None = None
    basket: BasketConfig | None = None
    linear: LinearConfig | None = None


def config_of(raw: Mapping[str, Any]) -> ClassicConfig:
    """The settings that a bundle's manifest holds.

    Raises:
        ConfigError: it has channels that this version cannot fit.
    """
    unknown = [name for name, settings in raw.items() if name not in _COUNTED and settings is not None]
    if unknown:
        raise ConfigError(
            "the bundle has channels that cannot be fitted again",
            seen=", ".join(unknown),
            allowed=", ".join(_COUNTED),
            fix="export a bundle without them, or with the version of genrecall that made it",
        )
    settings: dict[str, Any] = {
        name: None if raw[name] is None else _KINDS[name][1](**raw[name]) for name in _COUNTED if name in raw
    }
    return ClassicConfig(**settings)


def fit(histories: Histories, num_items: int, config: ClassicConfig | None = None) -> dict[str, ClassicChannel]:
    """Fit all counted channels on training histories."""
    config = config or ClassicConfig()
    settings = {name: getattr(config, name) for name in _COUNTED}
    left_out = {"basket"} if config.basket is None and not in_baskets(histories) else set()
    left_out |= {name for name in ("transition_undirected", "linear") if settings[name] is None}
    return {
        name: _named(_KINDS[name][0].fit(histories, num_items, settings[name]), name)
        for name in _COUNTED
        if name not in left_out
    }


def save(channels: Mapping[str, ClassicChannel | FusedChannel], directory: Path) -> None:
    """Write one file a channel, and the settings that they were fitted with.

    The channels beside the counted ones are saved if they are given; of a fused one the fusion only.
    """
    directory.mkdir()
    for name, channel in channels.items():
        state = {key: np.ascontiguousarray(value) for key, value in channel.state().items()}
        save_file(state, directory / f"{name}.safetensors")
    settings = {name: asdict(channel.config) for name, channel in channels.items()}
    (directory / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load(directory: Path) -> dict[str, ClassicChannel]:
    """Read what ``save`` wrote, but for the fused channel (see :func:`load_fused`)."""
    channels = {}
    for name, settings in _settings(directory).items():
        if name != _FUSED:
            kind, config = _KINDS[name]
            state = load_file(directory / f"{name}.safetensors")
            channels[name] = _named(kind.from_state(state, config(**settings)), name)
    return channels


def load_fused(directory: Path, channels: Sequence[Channel]) -> FusedChannel | None:
    """The fused channel over these channels; None where none was saved."""
    fusion = load_fusion(directory)
    return None if fusion is None else FusedChannel(channels, fusion)


def load_fusion(directory: Path) -> Fusion | None:
    """The fusion alone, for those who ask the channels themselves; None where none was saved."""
    settings = _settings(directory).get(_FUSED)
    if settings is None:
        return None
    return Fusion.from_state(load_file(directory / f"{_FUSED}.safetensors"), FusionConfig(**settings))


def _settings(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / _SETTINGS).read_text(encoding="utf-8")))


def _named(channel: Any, name: str) -> Any:
    """Two channels of one class stand under two names."""
    return channel if channel.name == name else channel.named(name)
