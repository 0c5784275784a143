"""The two-tower channel as it is served: the user's tower in NumPy, the items' vectors in an index, and no torch.

    u = unit(p + MLP(p)),   p = Σ_{j ≤ n} a_j x_{h_j} + Σ_c f_c,   a = softmax_j(q · x_{h_j} + r_{n−j}),   x = √E e
    score(i | h) = u · unit(e_i)

The formula of ``model.two_tower`` (Yi et al., RecSys 2019), read for the last place of a history only. Deviation: none
in exact arithmetic; sums run in another order than torch's, so that scores agree to about six digits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from genrecall.recall.ann import IndexConfig, VectorIndex, overlap
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.selection import Popularity

if TYPE_CHECKING:
    from genrecall.recall.two_tower import TwoTowerChannel

_WORDS, _GRAPH = "profile_words", "graph"
_TINY = 1e-12
_WEIGHTS = (
    "items.weight", "recency", "asks.weight", "mlp.0.weight", "mlp.0.bias", "mlp.1.weight", "mlp.1.bias",
    "mlp.4.weight", "mlp.4.bias",
)  # fmt: skip
_PROFILE = "profile.weight"


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """Settings of :class:`TowersChannel`.

    Attributes:
        window: the longest history that is read.
        index: settings of the index.
    """

    window: int
    index: IndexConfig = field(default_factory=IndexConfig)

    def __post_init__(self) -> None:
        if isinstance(self.index, Mapping):  # as JSON brings it back
            object.__setattr__(self, "index", IndexConfig(**self.index))


class TowersChannel:
    """Items whose vectors lie near the user's. Without a known history item popular items come (score 0).

    Args:
        weights: of a fitted ``model.two_tower.TwoTower``, by name; what its text said is folded into the items.
        words: places of ``column=value`` in the table of profiles.
        counts: (I,) training events by item.
        config: settings.
        graph: of the index, as ``state`` gave it.
    """

    name = "two_tower"

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        words: Mapping[str, int],
        counts: np.ndarray,
        config: TowersConfig,
        graph: np.ndarray | None = None,
    ) -> None:
        self.config, self.popularity = config, Popularity(np.asarray(counts, dtype=np.float64))
        self._weights = {name: np.asarray(weights[name], dtype=np.float32) for name in _WEIGHTS}
        self._words = dict(words)
        self._columns = sorted({word.split("=", 1)[0] for word in self._words})
        self._profiles = np.asarray(weights[_PROFILE], dtype=np.float32) if self._words else None
        self.index = VectorIndex(_unit(self._weights["items.weight"]), self.popularity, config.index, graph)

    @classmethod
    def of(cls, channel: TwoTowerChannel, index: IndexConfig | None = None) -> Self:
        """The served twin of a trained channel."""
        config = TowersConfig(window=channel.config.train.window, index=index or IndexConfig())
        return cls(channel.state(), channel.words, channel.counts, config)

    @property
    def counts(self) -> np.ndarray:
        """float64 (I,) training events by item."""
        return self.popularity.counts

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query."""
        num_items, width = len(self.popularity), min(k, len(self.popularity))
        items = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        known = [query.history[(query.history >= 0) & (query.history < num_items)] for query in queries]
        warm = [row for row, history in enumerate(known) if len(history)]
        if warm:
            asked = np.stack([self.user(known[row], queries[row].profile) for row in warm])
            found = self.index.search(asked, [queries[row].excluded for row in warm], width)
            items[warm, :width], scores[warm, :width] = found
        for row, history in enumerate(known):
            if len(history) == 0:
                exclude = queries[row].exclude
                exclude = exclude[(exclude >= 0) & (exclude < num_items)]
                first = self.popularity.first(width, exclude, queries[row].available)
                items[row, : len(first)], scores[row, : len(first)] = first, 0.0
        return Candidates(items=items, scores=scores)

    def user(self, history: np.ndarray, profile: Mapping[str, str]) -> np.ndarray:
        """float32 (E,): what a history of known items, oldest first and not empty, asks for."""
        weights = self._weights
        table = weights["items.weight"]
        read = table[history[-self.config.window :]] * np.float32(table.shape[1] ** 0.5)
        weight = read @ weights["asks.weight"][0] + weights["recency"][np.arange(len(read))[::-1]]
        weight = np.exp(weight - weight.max())
        pooled = (weight / weight.sum()) @ read
        if self._profiles is not None:
            told = [self._words.get(f"{c}={profile[c]}", 0) if c in profile else 0 for c in self._columns]
            pooled = pooled + self._profiles[told].sum(0)
        normal = (pooled - pooled.mean()) / np.sqrt(pooled.var() + np.float32(1e-5))
        inner = weights["mlp.1.weight"] @ (normal * weights["mlp.0.weight"] + weights["mlp.0.bias"])
        outer = weights["mlp.4.weight"] @ _gelu(inner + weights["mlp.1.bias"]) + weights["mlp.4.bias"]
        return np.asarray(_unit((pooled + outer)[None])[0], dtype=np.float32)

    def quality(self, queries: Sequence[Query], ks: Sequence[int] = (10, 100)) -> dict[str, Any]:
        """How much of the exact lists the index finds, for these queries without their exclusions."""
        asked = [Query(history=query.history, profile=query.profile) for query in queries]
        exact = TowersChannel(
            {**self._weights, **({} if self._profiles is None else {_PROFILE: self._profiles})},
            self._words,
            self.popularity.counts,
            TowersConfig(window=self.config.window, index=IndexConfig(kind="exact")),
        )
        most = min(max(ks), len(self.popularity))
        found, expected = self.recall(asked, most).items, exact.recall(asked, most).items
        return {
            "index": self.index.kind,
            "queries": len(asked),
            **{f"recall of the exact first {k}": round(overlap(found, expected, min(k, most)), 4) for k in ks},
        }

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that, with the configuration, make the channel again."""
        told = json.dumps(self._words, ensure_ascii=False).encode()
        profiles = {} if self._profiles is None else {_PROFILE: self._profiles}
        own = {_WORDS: np.frombuffer(told, np.uint8).copy(), _GRAPH: self.index.state()}
        return {**self._weights, **profiles, **own, "counts": self.popularity.counts}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: TowersConfig) -> Self:
        """The channel whose ``state()`` this was."""
        words, graph = json.loads(np.asarray(state[_WORDS]).tobytes().decode()), np.asarray(state[_GRAPH])
        return cls(state, words, state["counts"], config, graph if len(graph) else None)


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return np.asarray(x * 0.5 * (1 + erf(x / np.sqrt(2))), dtype=np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.einsum("ie,ie->i", vectors, vectors))[:, None]
    return np.asarray(vectors / np.maximum(lengths, _TINY), dtype=np.float32)
