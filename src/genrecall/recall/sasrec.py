"""SASRec as a channel; the formula and its source stand in ``model.sasrec``."""

from __future__ import annotations

from dataclasses import dataclass, field

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.model.sasrec import Sasrec
from genrecall.recall.neural import NeuralChannel, settings
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.data import SequenceData
from genrecall.train.sequence.soft import SoftTargets


@dataclass(frozen=True, kw_only=True)
class SasrecConfig:
    """Settings of :class:`SasrecChannel`.

    Attributes:
        width: E of items and places.
        blocks, heads: of attention.
        dropout: on the input and on what every block adds.
        item_dropout: share of history items that are blanked while training.
        train: settings of the training; its window is the longest history that is read.
    """

    width: int = 128
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.5
    item_dropout: float = 0.0
    train: SequenceConfig = field(default_factory=SequenceConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", settings(self.train))
        require_sizes(self.width, self.blocks, self.heads, max(self.dropout, self.item_dropout))


def require_sizes(width: int, blocks: int, heads: int, dropout: float) -> None:
    """Refuse a network that cannot be built."""
    if min(width, blocks, heads) < 1 or width % max(heads, 1) or not 0 <= dropout < 1:
        raise ConfigError(
            "the network cannot be built like this",
            seen=f"width={width}, blocks={blocks}, heads={heads}, dropout={dropout}",
            allowed="positive sizes, a width that the heads divide, a dropout from 0 to below 1",
            fix="correct the channel's configuration",
        )


class SasrecChannel(NeuralChannel[SasrecConfig]):
    """Items that a causal transformer expects after the history."""

    name = "sasrec"

    @classmethod
    def taught(cls, histories: Histories, num_items: int, config: SasrecConfig, soft: SoftTargets) -> SasrecChannel:
        """Train on the training histories and on a teacher's targets for their events."""
        channel = cls.fresh(histories, num_items, config)
        return channel.learn(SequenceData(histories=histories, beside_targets=soft.beside()), None)

    @classmethod
    def default(cls) -> SasrecConfig:
        """As trained for Amazon Beauty."""
        return SasrecConfig()

    @classmethod
    def build(cls, num_items: int, config: SasrecConfig) -> Sasrec:
        """The module with random weights."""
        return Sasrec(
            num_items,
            width=config.width,
            blocks=config.blocks,
            heads=config.heads,
            window=config.train.window,
            dropout=config.dropout,
            item_dropout=config.item_dropout,
        )
