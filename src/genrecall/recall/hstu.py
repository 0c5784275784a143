"""HSTU-like encoder as a channel; the formula and its source stand in ``model.hstu``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from genrecall.catalog.histories import Histories
from genrecall.model.hstu import Hstu
from genrecall.recall.neural import NeuralChannel, settings
from genrecall.recall.sasrec import require_sizes
from genrecall.train.sequence.config import SequenceConfig


@dataclass(frozen=True, kw_only=True)
class HstuConfig:
    """Settings of :class:`HstuChannel`.

    Attributes:
        width: E.
        blocks, heads: of attention.
        dropout: on the input and on what every block adds.
        timed: whether time gaps are read; None: where the training events have times.
        train: settings of the training; its window is the longest history that is read.
    """

    width: int = 128
    blocks: int = 4
    heads: int = 4
    dropout: float = 0.5
    timed: bool | None = None
    train: SequenceConfig = field(default_factory=SequenceConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", settings(self.train))
        require_sizes(self.width, self.blocks, self.heads, self.dropout)


class HstuChannel(NeuralChannel[HstuConfig]):
    """Items that gated attention without a softmax expects after the history and its times."""

    name = "hstu"

    @classmethod
    def fit(
        cls,
        histories: Histories,
        num_items: int,
        config: HstuConfig | None = None,
        *,
        validate: Callable[[Self], float] | None = None,
        work: Path | str | None = None,
    ) -> Self:
        """As ``NeuralChannel.fit``; whether times are read is settled by the histories."""
        config = config or cls.default()
        if config.timed is None:
            config = replace(config, timed=histories.timed)
        return super().fit(histories, num_items, config, validate=validate, work=work)

    @property
    def timed(self) -> bool:
        """Whether time gaps are read."""
        return bool(self.config.timed)

    @classmethod
    def default(cls) -> HstuConfig:
        """A small encoder."""
        return HstuConfig()

    @classmethod
    def build(cls, num_items: int, config: HstuConfig) -> Hstu:
        """The module with random weights."""
        return Hstu(
            num_items,
            width=config.width,
            blocks=config.blocks,
            heads=config.heads,
            window=config.train.window,
            dropout=config.dropout,
            timed=bool(config.timed),
        )
