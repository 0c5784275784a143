"""Nearest neighbours by the items' text vectors.

    score(j | h) = cos(Σ_{a < last} decay^a · x(h_a), x_j),        x = (v − mean v) / |v − mean v|

A content-based profile as a decayed mean (Rocchio, "Relevance feedback in information retrieval", 1971), searched
exactly: one matrix product. With a search text the query is that text's vector. Deviation: vectors are centred on
request, because those of language models share a direction that says nothing (Mu & Viswanath, "All-but-the-top", ICLR
2018); rows are computed in pieces of fixed shape, so that a batch answers as its queries alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.neighbours import check_history, history_weights
from genrecall.recall.selection import Popularity, exclusions, top_columns

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts to vectors (N, D), as the items' texts were encoded."""

_ROWS_A_PIECE = 16


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """Settings of :class:`DenseChannel`.

    Attributes:
        centred: subtract the items' mean vector first.
        last: newest history items that are read; None reads all.
        decay: weight of a history item one step older.
    """

    centred: bool = True
    last: int | None = 5
    decay: float = 0.5

    def __post_init__(self) -> None:
        check_history(self.last, self.decay, None)


class DenseChannel:
    """Items whose vectors are near the query's: its ``text``'s where it has one, else its history's.

    Without either popular items come (score 0).

    Args:
        vectors: float32 (I, D), normalised (and centred by ``mean``).
        mean: float32 (D,), zero where not centred.
        counts: (I,) training events by item, for ties.
        config: settings.
        encode: for search texts; None where the channel only reads histories.
    """

    name = "dense"

    def __init__(
        self,
        vectors: np.ndarray,
        mean: np.ndarray,
        counts: np.ndarray,
        config: DenseConfig,
        encode: Encode | None = None,
    ) -> None:
        self.config = config
        self._vectors, self._mean, self._encode = vectors, mean, encode
        self.popularity = Popularity(counts)
        self.table = np.ascontiguousarray(vectors[self.popularity.order].T)

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        counts: np.ndarray,
        config: DenseConfig | None = None,
        encode: Encode | None = None,
    ) -> Self:
        """Take I item vectors float32 (I, D); other arguments as for the class."""
        config = config or DenseConfig()
        mean = vectors.mean(axis=0) if config.centred else np.zeros(vectors.shape[1])
        mean = mean.astype(np.float32)
        return cls(_unit(vectors - mean), mean, np.asarray(counts, dtype=np.float64), config, encode)

    @property
    def counts(self) -> np.ndarray:
        """float64 (I,) training events by item."""
        return self.popularity.counts

    def read_as(self, config: DenseConfig) -> Self:
        """The channel of a configuration that differs from this one's in the reading of histories only."""
        assert config.centred == self.config.centred
        other = copy.copy(self)
        other.config = config
        return other

    def with_encoder(self, encode: Encode) -> Self:
        """The same channel, which also reads search texts."""
        other = copy.copy(self)
        other._encode = encode
        return other

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query.

        Raises:
            ConfigError: a query has a text, and the channel no encoder.
        """
        items = np.full((len(queries), k), -1, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        width = min(k, len(self.popularity))
        for begin, end, values in self._scored(queries):
            columns, top = top_columns(values, width)
            items[begin:end, :width] = np.where(np.isneginf(top), -1, self.popularity.order[columns])
            scores[begin:end, :width] = top
        return Candidates(items=items, scores=scores)

    def places(self, queries: Sequence[Query], targets: np.ndarray) -> np.ndarray:
        """int64 (R,) the place that each of ``targets`` (R,) would have in an endless list; 0 if excluded."""
        found = np.zeros(len(queries), dtype=np.int64)
        column = self.popularity.place[targets].astype(np.int64)[:, None]
        for begin, end, values in self._scored(queries):
            goal = np.take_along_axis(values, column[begin:end], 1)
            tied_before = (values == goal) & (np.arange(values.shape[1]) < column[begin:end])
            place = 1 + ((values > goal) | tied_before).sum(1)
            found[begin:end] = np.where(np.isneginf(goal[:, 0]), 0, place)
        return found

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that, with the configuration, make the channel again: ``vectors``, ``mean``, ``counts``."""
        return {"vectors": self._vectors, "mean": self._mean, "counts": self.popularity.counts}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: DenseConfig, encode: Encode | None = None) -> Self:
        """The channel whose ``state()`` this was."""
        return cls(state["vectors"], state["mean"], np.asarray(state["counts"], dtype=np.float64), config, encode)

    def _scored(self, queries: Sequence[Query]) -> Iterator[tuple[int, int, np.ndarray]]:
        """Pieces of queries with float32 (rows, I) scores, columns by place; excluded items are at −inf."""
        asked = self.asked(queries)
        piece = np.zeros((_ROWS_A_PIECE, asked.shape[1]), dtype=np.float32)
        rows, items = exclusions(queries, len(self.popularity))
        places = self.popularity.place[items]
        for begin in range(0, len(queries), _ROWS_A_PIECE):
            end = min(begin + _ROWS_A_PIECE, len(queries))
            piece[: end - begin] = asked[begin:end]
            values = (piece @ self.table)[: end - begin]
            first, behind = np.searchsorted(rows, [begin, end])
            values[rows[first:behind] - begin, places[first:behind]] = -np.inf
            yield begin, end, values

    def asked(self, queries: Sequence[Query]) -> np.ndarray:
        """float32 (R, D) one vector a query, normalised; zero where nothing is known."""
        histories = [Query() if query.text else query for query in queries]
        weights = history_weights(histories, len(self.popularity), last=self.config.last, decay=self.config.decay)
        asked = np.asarray(weights @ self._vectors, dtype=np.float32)
        texts = [(row, query.text) for row, query in enumerate(queries) if query.text]
        if texts:
            encoded = self._encoder()([text for _, text in texts]).astype(np.float32)
            asked[[row for row, _ in texts]] = encoded - self._mean
        return _unit(asked)

    def _encoder(self) -> Encode:
        if self._encode is None:
            raise ConfigError(
                f"the channel {self.name} cannot read search texts",
                seen="a query with a text, and no encoder",
                allowed="queries with a history, or a channel that was given the encoder of the items' vectors",
                fix="pass encode=... to fit or from_state, or call with_encoder",
            )
        return self._encode


def _unit(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; zero rows stay zero."""
    lengths = np.sqrt(np.einsum("id,id->i", vectors, vectors))[:, None]
    return np.ascontiguousarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0), np.float32)
