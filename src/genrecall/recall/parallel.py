"""Parallel codes as a channel: every item scored exactly; the formula and its source stand in ``model.parallel``.

    score(i | h) = Σ_l log p_l(s_l(i) | h)

One gather-sum over (I, L) codes, no search (RPG walks a graph of neighbours instead; we deviate because a catalogue of
a million items costs a batch only L additions an item).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch

from genrecall.catalog.histories import Histories
from genrecall.model.parallel import ParallelTrunk
from genrecall.model.trunk import TrunkConfig
from genrecall.recall.neural import NeuralChannel, settings
from genrecall.recall.sasrec import require_sizes
from genrecall.sid.space import SidSpace
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.data import SequenceData
from genrecall.train.sequence.soft import SoftTargets

_SIDS = "sids"


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Settings of :class:`ParallelChannel`.

    Attributes:
        codes: C of every level.
        width, layers, heads: of the trunk.
        dropout: on inputs and on what every block adds.
        item_dropout: share of history items that are blanked while training.
        temperature: τ of cosine logits; None: plain dot products.
        tied: whether codes are answered with the vectors that histories are read with.
        train: settings of the training; its window is the longest history that is read.
    """

    codes: int = 256
    width: int = 256
    layers: int = 3
    heads: int = 4
    dropout: float = 0.4
    item_dropout: float = 0.15
    temperature: float | None = 0.07
    tied: bool = True
    train: SequenceConfig = field(
        default_factory=lambda: SequenceConfig(
            epochs=30, optimizer="muon", adamw_only=("turns",), learning_rate=2e-3, warmup=0.03, patience=2
        )
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", settings(self.train))
        require_sizes(self.width, self.layers, 2 * self.heads, max(self.dropout, self.item_dropout))


class ParallelChannel(NeuralChannel[ParallelConfig]):
    """Items whose codes are all likely after the history; scores are log-probabilities of SIDs."""

    name = "parallel"

    @classmethod
    def trained(
        cls,
        histories: Histories,
        sids: np.ndarray,
        config: ParallelConfig | None = None,
        *,
        soft: SoftTargets | None = None,
        validate: Callable[[Self], float] | None = None,
        work: Path | str | None = None,
    ) -> Self:
        """Train on the training histories.

        Args:
            histories: U users' training events.
            sids: int (I, L), codes of the items, such as a ``pq`` quantiser's.
            config: settings.
            soft: a teacher's targets, row by row the events of ``histories``.
            validate: a figure to maximise, of the channel as it would answer.
            work: directory for checkpoints and figures; None keeps nothing.
        """
        config = config or cls.default()
        counts = histories.item_counts(len(sids)).astype(np.float64)
        channel = cls(_module(sids, config), counts, config, config.train.device)
        beside = {} if soft is None else soft.beside()
        return channel.learn(SequenceData(histories=histories, beside_targets=beside), validate, work)

    @classmethod
    def default(cls) -> ParallelConfig:
        """The settings where none are given."""
        return ParallelConfig()

    @classmethod
    def build(cls, num_items: int, config: ParallelConfig) -> ParallelTrunk:
        """The module with random weights, for items that are numbered in base C: without content of their own."""
        levels = 1
        while config.codes**levels < num_items:
            levels += 1
        digits = np.arange(num_items)[:, None] // config.codes ** np.arange(levels) % config.codes
        return _module(digits, config)

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: ParallelConfig, device: str = "auto") -> Self:
        """The channel whose ``state()`` this was."""
        module = _module(np.asarray(state[_SIDS]), config)
        module.load_state_dict({name: torch.from_numpy(np.array(state[name])) for name in module.state_dict()})
        return cls(module, np.asarray(state["counts"], dtype=np.float64), config, device)

    def refresh(self) -> None:
        """Where each item's codes stand; ``item_vectors`` are the sums that the trunk reads."""
        self._rows = self.module.catalogue()
        with torch.no_grad():
            items = torch.arange(len(self.counts), device=self._rows.device)
            self._vectors = self._trunk.reader.vectors(items).detach().float()

    @property
    def _trunk(self) -> ParallelTrunk:
        assert isinstance(self.module, ParallelTrunk)
        return self.module

    def against(self, users: torch.Tensor) -> torch.Tensor:
        """Scores (n, I) of all items: the gather-sum."""
        return torch.nn.functional.embedding_bag(self._rows, users.T.contiguous(), mode="sum").T.contiguous()


def _module(sids: np.ndarray, config: ParallelConfig) -> ParallelTrunk:
    trunk = TrunkConfig(
        width=config.width,
        layers=config.layers,
        depth_layers=1,
        heads=config.heads,
        window=config.train.window,
        dropout=config.dropout,
        item_dropout=config.item_dropout,
        seed=config.train.seed,
    )
    space = SidSpace.uniform(sids.shape[1], config.codes)
    return ParallelTrunk(trunk, space, sids, temperature=config.temperature, tied=config.tied)
