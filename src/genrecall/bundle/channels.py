"""The classic channels of a bundle: fitted together, stored as safetensors beside their configurations."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.ann import IndexConfig
from genrecall.recall.basket import BasketChannel, BasketConfig
from genrecall.recall.channel import Channel
from genrecall.recall.dense import DenseChannel, DenseConfig
from genrecall.recall.fusion import FusedChannel, Fusion, FusionConfig
from genrecall.recall.item_cf import ItemCfChannel, ItemCfConfig
from genrecall.recall.lexical import LexicalChannel, LexicalConfig
from genrecall.recall.linear import LinearChannel, LinearConfig
from genrecall.recall.popularity import PopularityChannel, PopularityConfig
from genrecall.recall.segments import Profiles, SegmentChannel, SegmentConfig
from genrecall.recall.towers import TowersChannel, TowersConfig
from genrecall.recall.transition import TransitionChannel, TransitionConfig, in_baskets

if TYPE_CHECKING:
    from genrecall.recall.two_tower import TwoTowerConfig

SETTINGS = "settings.json"
FUSED = "fused"
ClassicChannel = (
    PopularityChannel
    | ItemCfChannel
    | TransitionChannel
    | BasketChannel
    | LinearChannel
    | LexicalChannel
    | DenseChannel
    | SegmentChannel
    | TowersChannel
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
    "popularity_segment": (SegmentChannel, SegmentConfig),
    "two_tower": (TowersChannel, TowersConfig),
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
        segment: popularity by a profile column; None leaves it out.
        two_tower: trained at export; None leaves it out.
        index: of the two towers' items.
    """

    popularity: PopularityConfig = field(default_factory=PopularityConfig)
    item_cf: ItemCfConfig = field(default_factory=ItemCfConfig)
    transition: TransitionConfig | None = None
    transition_undirected: TransitionConfig | None = None
    basket: BasketConfig | None = None
    linear: LinearConfig | None = None
    segment: SegmentConfig | None = None
    two_tower: TwoTowerConfig | None = None
    index: IndexConfig = field(default_factory=IndexConfig)


def config_of(raw: Mapping[str, Any]) -> ClassicConfig:
    """The settings that a bundle's manifest holds.

    Raises:
        ConfigError: it has channels that this version cannot fit.
    """
    from genrecall.recall.two_tower import TwoTowerConfig

    kinds: dict[str, Any] = {name: _KINDS[name][1] for name in _COUNTED}
    kinds |= {"segment": SegmentConfig, "two_tower": TwoTowerConfig, "index": IndexConfig}
    unknown = [name for name, settings in raw.items() if name not in kinds and settings is not None]
    if unknown:
        raise ConfigError(
            "the bundle has channels that cannot be fitted again",
            seen=", ".join(unknown),
            allowed=", ".join(kinds),
            fix="export a bundle without them, or with the version of genrecall that made it",
        )
    known = {name: settings for name, settings in raw.items() if name in kinds}
    settings: dict[str, Any] = {name: None if told is None else kinds[name](**told) for name, told in known.items()}
    return ClassicConfig(**settings)


def fit(
    histories: Histories,
    num_items: int,
    config: ClassicConfig | None = None,
    *,
    profile_of: Profiles | None = None,
    vectors: np.ndarray | None = None,
) -> dict[str, ClassicChannel]:
    """Fit all channels that are asked for on training histories.

    Args:
        histories: training events of U users.
        num_items: I.
        config: which channels, and how.
        profile_of: profile columns of a user by row of ``histories``.
        vectors: float32 (I, D) text vectors, by which the two towers know items without events.
    """
    config = config or ClassicConfig()
    settings = {name: getattr(config, name) for name in _COUNTED}
    left_out = {"basket"} if config.basket is None and not in_baskets(histories) else set()
    left_out |= {name for name in ("transition_undirected", "linear") if settings[name] is None}
    fitted = {
        name: _named(_KINDS[name][0].fit(histories, num_items, settings[name]), name)
        for name in _COUNTED
        if name not in left_out
    }
    if config.segment is not None:
        profiles = profile_of or (lambda user: {})
        fitted["popularity_segment"] = SegmentChannel.fit(histories, num_items, config.segment, profiles)
    if config.two_tower is not None:
        from genrecall.recall.two_tower import TwoTowerChannel

        trained = TwoTowerChannel.fit(histories, num_items, config.two_tower, vectors=vectors, profile_of=profile_of)
        fitted["two_tower"] = TowersChannel.of(trained, config.index)
    return fitted


def save(channels: Mapping[str, ClassicChannel | FusedChannel], directory: Path) -> None:
    """Write one file a channel, and the settings that they were fitted with.

    The channels beside the counted ones are saved if they are given; of a fused one the fusion only.
    """
    directory.mkdir()
    for name, channel in channels.items():
        state = {key: np.ascontiguousarray(value) for key, value in channel.state().items()}
        save_file(state, directory / f"{name}.safetensors")
    settings = {name: asdict(channel.config) for name, channel in channels.items()}
    (directory / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load(directory: Path, only: Collection[str] | None = None) -> dict[str, ClassicChannel]:
    """Read what ``save`` wrote, or ``only`` these of it, but for the fused channel (see :func:`load_fused`)."""
    channels = {}
    for name, settings in _settings(directory).items():
        if name != FUSED and (only is None or name in only):
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
    settings = _settings(directory).get(FUSED)
    if settings is None:
        return None
    return Fusion.from_state(load_file(directory / f"{FUSED}.safetensors"), FusionConfig(**settings))


def _settings(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / SETTINGS).read_text(encoding="utf-8")))


def _named(channel: Any, name: str) -> Any:
    """Two channels of one class stand under two names."""
    return channel if channel.name == name else channel.named(name)
