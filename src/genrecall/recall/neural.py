"""Channels whose score is a dot product of what a network reads in the history and of the items' vectors.

    score(i | h) = u(h) · v_i,    list = first k of I \\ exclude, ordered by (−score, −training count, index)

Exact retrieval: one matrix product. The rule for ties is that of ``selection``. Deviation from the usual top-k: score
and tie-breaker are packed into one integer, so that equal scores have one order on every device; and rows are computed
in pieces of fixed shape, so that a batch answers as its queries alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch

from genrecall import hardware
from genrecall.catalog.histories import Histories, offsets_of
from genrecall.catalog.split import Cases
from genrecall.model.sequence import SequenceBatch, SequenceEncoder
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.selection import Popularity
from genrecall.recall.sort_keys import sort_keys, ties
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.data import SequenceData
from genrecall.train.sequence.fit import fit as train
from genrecall.train.sequence.result import FitResult

_SCORES_A_PIECE = {"cpu": (2**24, 16), "cuda": (2**27, 512)}


class NeuralConfig(Protocol):
    """What the settings of every network channel have."""

    @property
    def train(self) -> SequenceConfig: ...  # noqa: D102


Config = TypeVar("Config", bound=NeuralConfig)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """N histories to be read: ``items`` and ``times`` (E,), borders ``offsets`` int64 (N+1,), ``extra`` (N, ...)."""

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None = None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)


class NeuralChannel(ABC, Generic[Config]):
    """Answers with a fitted module. Without a known history item popular items come (score 0).

    Args:
        module: fitted, or about to be.
        counts: (I,) training events by item, for ties and for queries without history.
        config: settings.
        device: where it answers.

    Attributes:
        result: figures of the training; None for a channel that was loaded.
    """

    name: ClassVar[str]

    def __init__(self, module: SequenceEncoder, counts: np.ndarray, config: Config, device: str = "auto") -> None:
        self.config, self.device = config, hardware.pick_device(device)
        self.module = module.to(self.device).eval()
        self.popularity = Popularity(counts)
        self.result: FitResult | None = None
        self._tie = torch.from_numpy(len(counts) - 1 - self.popularity.place.astype(np.int64)).to(self.device)
        self._vectors: torch.Tensor
        self.refresh()

    @classmethod
    @abstractmethod
    def build(cls, num_items: int, config: Config) -> SequenceEncoder:
        """The module with random weights."""

    @classmethod
    def fit(
        cls,
        histories: Histories,
        num_items: int,
        config: Config | None = None,
        *,
        validate: Callable[[Self], float] | None = None,
        work: Path | str | None = None,
    ) -> Self:
        """Train on the training histories.

        Args:
            histories: U users' training events.
            num_items: I.
            config: settings.
            validate: a figure to maximise, of the channel as it would answer (see ``validation.Validation``).
            work: directory for checkpoints and figures; None keeps nothing.
        """
        channel = cls.fresh(histories, num_items, config or cls.default())
        return channel.learn(SequenceData(histories=histories, timed=channel.timed), validate, work)

    @classmethod
    def fresh(cls, histories: Histories, num_items: int, config: Config) -> Self:
        """The channel before it has learnt anything."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            module = cls.build(num_items, config)
        return cls(module, histories.item_counts(num_items).astype(np.float64), config, config.train.device)

    @classmethod
    @abstractmethod
    def default(cls) -> Config:
        """The settings where none are given."""

    def learn(
        self, data: SequenceData, validate: Callable[[Self], float] | None, work: Path | str | None = None
    ) -> Self:
        """Train the module in place."""

        def measure(module: SequenceEncoder) -> float:
            self.refresh()
            assert validate is not None
            return validate(self)

        self.result = train(
            self.module,
            data,
            self.config.train,
            validate=measure if validate is not None else None,
            work=work,
            identity={"channel": self.name, "module": str(self.config)},
            label=self.name,
        )
        self.refresh()
        return self

    def refresh(self) -> None:
        """Take the items' vectors from the module's weights as they are now."""
        with torch.no_grad():
            self._vectors = self.module.catalogue().detach().float()

    @property
    def timed(self) -> bool:
        """Whether the module reads times."""
        return False

    @property
    def counts(self) -> np.ndarray:
        """float64 (I,) training events by item."""
        return self.popularity.counts

    def item_vectors(self) -> np.ndarray:
        """float32 (I, D)."""
        return self._vectors.cpu().numpy().copy()

    def scores(self, histories: Histories) -> np.ndarray:
        """float32 (N, I) of every item after each history; nothing is excluded."""
        answer = np.zeros((len(histories), len(self.counts)), dtype=np.float32)
        for places, scores in self._scored(self.of_histories(histories)):
            answer[places] = scores.cpu().numpy()
        return answer

    def ranks(self, cases: Cases, *, removed: bool = True) -> np.ndarray:
        """int64 (N,) place of each target among all items, 1 for the first; 0 where its own history removes it.

        Args:
            cases: N questions.
            removed: whether lists leave out the history's items.
        """
        answer = np.zeros(len(cases), dtype=np.int64)
        targets = torch.from_numpy(cases.targets.astype(np.int64)).to(self.device)
        lengths = cases.histories.lengths
        for places, scores in self._scored(self.of_histories(cases.histories, cases.users)):
            if removed:
                own = cases.histories.take(places)
                rows = np.repeat(np.arange(len(places)), lengths[places])
                self._remove(scores, rows, own.items)
            keys = sort_keys(scores, self._tie)
            right = targets[torch.from_numpy(places).to(self.device)][:, None]
            rank = 1 + (keys > keys.gather(1, right)).sum(1)
            answer[places] = torch.where(scores.gather(1, right)[:, 0].isneginf(), 0, rank).cpu().numpy()
        return answer

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query."""
        num_items = len(self.counts)
        items = np.full((len(queries), k), -1, dtype=np.int32)
        values = np.full((len(queries), k), -np.inf, dtype=np.float32)
        width = min(k, num_items)
        for places, scores in self._scored(self._of_queries(queries)):
            excluded = [queries[place].excluded for place in places]
            self._remove(scores, np.repeat(np.arange(len(places)), list(map(len, excluded))), np.concatenate(excluded))
            keys = torch.topk(sort_keys(scores, self._tie), width, dim=1).values
            place = (num_items - 1 - ties(keys)).cpu().numpy()
            chosen = self.popularity.order[place]
            top = scores.gather(1, torch.from_numpy(chosen.astype(np.int64)).to(self.device)).cpu().numpy()
            items[places, :width] = np.where(np.isneginf(top), -1, chosen)
            values[places, :width] = top
        return Candidates(items=items, scores=values)

    def state(self) -> dict[str, np.ndarray]:
        """What makes the channel again: the module's weights by name, and ``counts``."""
        weights = {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.module.state_dict().items()}
        return {**weights, "counts": self.counts.astype(np.float64)}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: Config, device: str = "auto") -> Self:
        """The channel whose ``state()`` this was."""
        module = cls.build(len(state["counts"]), config)
        module.load_state_dict({name: torch.from_numpy(np.array(state[name])) for name in module.state_dict()})
        return cls(module, np.asarray(state["counts"], dtype=np.float64), config, device)

    def extra(self, queries: Sequence[Query]) -> dict[str, np.ndarray]:
        """What the module reads beside the history, (N, ...) by name."""
        return {}

    def of_histories(self, histories: Histories, users: np.ndarray | None = None) -> Rows:
        """Histories to be read; ``users`` int (N,) says whose they are, for channels that know users."""
        return Rows(items=histories.items, offsets=histories.offsets, times=histories.times if self.timed else None)

    def _of_queries(self, queries: Sequence[Query]) -> Rows:
        known = [(query.history >= 0) & (query.history < len(self.counts)) for query in queries]
        kept = [query.history[mask] for query, mask in zip(queries, known, strict=True)]
        times = None
        if self.timed:
            # Events of unknown times count as simultaneous.
            stamps = [
                np.zeros(int(mask.sum()), np.int64) if query.times is None else query.times[mask]
                for query, mask in zip(queries, known, strict=True)
            ]
            times = np.concatenate([np.empty(0, np.int64), *stamps])
        lengths = np.array([len(items) for items in kept], dtype=np.int64)
        return Rows(
            items=np.concatenate([np.empty(0, np.int32), *kept]),
            offsets=offsets_of(lengths),
            times=times,
            extra=self.extra(queries),
        )

    @torch.no_grad()
    def _scored(self, rows: Rows) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Pieces: places int64 (n,) of the rows, and their scores float32 (n, I) on the device."""
        lengths = np.minimum(np.diff(rows.offsets), self.config.train.window)
        shapes = self.config.train.shapes
        fits = np.searchsorted([length for _, length in shapes], lengths)
        budget, most = _SCORES_A_PIECE[self.device.type]
        size = max(1, min(budget // len(self.counts), most))
        for number, (_, width) in enumerate(shapes):
            group = np.flatnonzero(fits == number)
            for begin in range(0, len(group), size):
                places = group[begin : begin + size]
                filled = np.concatenate([places, np.repeat(places[:1], size - len(places))])
                users = self.module.users(self._batch(rows, filled, lengths[filled], width)).float()
                scores = self.against(users)[: len(places)]
                scores[torch.from_numpy(lengths[places] == 0).to(self.device)] = 0.0
                yield places, scores + 0.0  # no zero is negative, so that equal scores are equal bits

    def against(self, users: torch.Tensor) -> torch.Tensor:
        """Scores (n, I) of all items for what the module gave for n users."""
        return users @ self._vectors.T

    def _batch(self, rows: Rows, places: np.ndarray, lengths: np.ndarray, width: int) -> SequenceBatch:
        column = np.arange(width)
        where = (rows.offsets[places + 1] - lengths)[:, None] + np.minimum(column, np.maximum(lengths - 1, 0)[:, None])
        where = np.minimum(where, max(len(rows.items) - 1, 0))
        real = column < lengths[:, None]

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        none = np.zeros(where.shape, dtype=np.int64)
        return SequenceBatch(
            items=tensor(np.where(real, rows.items[where], 0).astype(np.int64) if len(rows.items) else none),
            lengths=tensor(lengths),
            targets=torch.full(where.shape, -1, dtype=torch.int64, device=self.device),
            times=None if rows.times is None else tensor(rows.times[where] if len(rows.times) else none),
            extra={name: tensor(array[places]) for name, array in rows.extra.items()},
        )

    def _remove(self, scores: torch.Tensor, rows: np.ndarray, items: np.ndarray) -> None:
        known = (items >= 0) & (items < len(self.counts))
        where = np.stack([rows[known], items[known]]).astype(np.int64)
        first, second = torch.from_numpy(where).to(self.device)
        scores[first, second] = float("-inf")


def settings(value: SequenceConfig | Mapping[str, Any]) -> SequenceConfig:
    """The training's settings, also as JSON brings them back."""
    return value if isinstance(value, SequenceConfig) else SequenceConfig(**value)
