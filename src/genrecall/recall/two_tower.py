"""Two towers as a channel; the formula and its source stand in ``model.two_tower``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError, DataError
from genrecall.model.two_tower import PROFILE, TwoTower
from genrecall.recall.channel import Query
from genrecall.recall.neural import NeuralChannel, Rows, settings
from genrecall.recall.sasrec import require_sizes
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.data import SequenceData

Profiles = Callable[[int], Mapping[str, str]]
_WORDS = "profile_words"


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Settings of :class:`TwoTowerChannel`.

    Attributes:
        width: E.
        dropout: on what the user's tower reads, and inside it.
        temperature: of the softmax over cosines.
        negatives: items drawn uniformly beside those of the batch.
        profile_min_users: values of a profile column that fewer training users share are not read.
        train: settings of the training; its window is the longest history that is read.
    """

    width: int = 128
    dropout: float = 0.3
    temperature: float = 0.07
    negatives: int = 1024
    profile_min_users: int = 5
    train: SequenceConfig = field(default_factory=SequenceConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", settings(self.train))
        require_sizes(self.width, 1, 1, self.dropout)
        if self.temperature <= 0 or self.negatives < 0 or self.profile_min_users < 1:
            raise ConfigError(
                "the towers cannot be trained like this",
                seen=f"temperature={self.temperature}, negatives={self.negatives}, "
                f"profile_min_users={self.profile_min_users}",
                allowed="temperature > 0, negatives >= 0, profile_min_users >= 1",
                fix="correct TwoTowerConfig",
            )


class TwoTowerChannel(NeuralChannel[TwoTowerConfig]):
    """Items whose vectors lie near the user's; the score is the cosine."""

    name = "two_tower"

    def __init__(
        self,
        module: TwoTower,
        counts: np.ndarray,
        config: TwoTowerConfig,
        device: str = "auto",
        *,
        words: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(module, counts, config, device)
        self.words = dict(words or {})
        self._columns = sorted({word.split("=", 1)[0] for word in self.words})
        self._profiles: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        histories: Histories,
        num_items: int,
        config: TwoTowerConfig | None = None,
        *,
        validate: Callable[[Self], float] | None = None,
        work: Path | str | None = None,
        vectors: np.ndarray | None = None,
        profile_of: Profiles | None = None,
    ) -> Self:
        """Train on the training histories.

        Args:
            histories: U users' training events.
            num_items: I.
            config: settings.
            validate: a figure to maximise, of the channel as it would answer.
            work: directory for checkpoints and figures; None keeps nothing.
            vectors: float (I, D) text vectors of the items; None: items are known by behaviour alone.
            profile_of: profile columns of a user by row of ``histories``.
        """
        config = config or cls.default()
        if vectors is not None and len(vectors) != num_items:
            raise DataError(
                "the text vectors are not those of the catalog",
                seen=f"{len(vectors)} vectors",
                allowed=f"{num_items}, one an item",
                fix="embed the catalog again",
            )
        counts = histories.item_counts(num_items).astype(np.float64)
        words = _words(histories, profile_of, config.profile_min_users)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            text = None if vectors is None else torch.from_numpy(np.asarray(vectors, dtype=np.float32))
            module = _module(counts, config, len(words), text)
        channel = cls(module, counts, config, config.train.device, words=words)
        beside = {}
        if words and profile_of is not None:
            channel._profiles = channel._coded([profile_of(user) for user in range(len(histories))])
            beside = {PROFILE: channel._profiles}
        channel.learn(SequenceData(histories=histories, beside_users=beside), validate, work)
        module.fold()
        channel.refresh()
        return channel

    @classmethod
    def default(cls) -> TwoTowerConfig:
        """The settings where none are given."""
        return TwoTowerConfig()

    @classmethod
    def build(cls, num_items: int, config: TwoTowerConfig) -> TwoTower:
        """The module with random weights, without text and profiles."""
        return _module(np.ones(num_items), config, 0, None)

    def extra(self, queries: Sequence[Query]) -> dict[str, np.ndarray]:
        """The queries' profiles."""
        return {PROFILE: self._coded([query.profile for query in queries])} if self.words else {}

    def of_histories(self, histories: Histories, users: np.ndarray | None = None) -> Rows:
        """Histories with the profiles of the users that the channel was fitted on; without, unknown profiles."""
        rows = super().of_histories(histories, users)
        if not self.words:
            return rows
        coded = self._coded([{}] * len(histories))
        if users is not None and self._profiles is not None:
            coded = self._profiles[users]
        return replace(rows, extra={PROFILE: coded})

    def state(self) -> dict[str, np.ndarray]:
        """The module's weights by name, ``counts``, and the profile values that are known (JSON as uint8)."""
        words = json.dumps(self.words, ensure_ascii=False).encode()
        return {**super().state(), _WORDS: np.frombuffer(words, dtype=np.uint8).copy()}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: TwoTowerConfig, device: str = "auto") -> Self:
        """The channel whose ``state()`` this was."""
        words = json.loads(np.asarray(state[_WORDS]).tobytes().decode())
        counts = np.asarray(state["counts"], dtype=np.float64)
        module = _module(counts, config, len(words), None)
        module.load_state_dict({name: torch.from_numpy(np.array(state[name])) for name in module.state_dict()})
        return cls(module, counts, config, device, words=words)

    def _coded(self, profiles: Sequence[Mapping[str, str]]) -> np.ndarray:
        """int32 (N, columns) places in ``words``; 0 where a value is missing or not known."""
        coded = [
            [self.words.get(f"{name}={profile[name]}", 0) if name in profile else 0 for name in self._columns]
            for profile in profiles
        ]
        return np.array(coded, dtype=np.int32).reshape(len(profiles), len(self._columns))


def _module(counts: np.ndarray, config: TwoTowerConfig, words: int, text: torch.Tensor | None) -> TwoTower:
    return TwoTower(
        torch.from_numpy(counts),
        width=config.width,
        window=config.train.window,
        profile_values=words,
        text=text,
        dropout=config.dropout,
        temperature=config.temperature,
        negatives=config.negatives,
    )


def _words(histories: Histories, profile_of: Profiles | None, min_users: int) -> dict[str, int]:
    """Places of ``column=value``, from 1, for values that enough users with training events share."""
    if profile_of is None:
        return {}
    seen: Counter[str] = Counter()
    for user in np.flatnonzero(histories.lengths > 0).tolist():
        seen.update(f"{name}={value}" for name, value in profile_of(user).items())
    return {word: number + 1 for number, word in enumerate(sorted(w for w, n in seen.items() if n >= min_users))}
