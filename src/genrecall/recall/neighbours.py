"""Item-to-item scoring, shared by co-occurrence and transition counts.

    score(j | h) = Σ_{a < last} decay^a · s(h_a) · M[h_a, j]        a = 0 is the newest item of the history

s is 1 for items that share the newest item's time, ``session_weight`` (1 unless set) for older ones.
Item-based top-N after Deshpande & Karypis (TOIS 2004); the decay by position is that of Ludewig & Jannach,
"Evaluation of session-based recommendation algorithms" (2018). Deviation: only the matrix differs between channels
(``NeighbourChannel.fit``), so they share one sparse product; float sums run in a fixed order, so a batch answers as
its rows alone.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from genrecall.catalog.histories import Histories, offsets_of
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.selection import Popularity, best, scipy_sparse

# Products are cut into row blocks of about this many scored pairs (12 bytes each, a few copies).
_PAIRS_A_BLOCK = 4_000_000


class Neighbours:
    """A sparse item-to-item matrix and how a history is read against it.

    Args:
        matrix: SciPy CSR (I, I): row = item of the history, column = item to recommend; values > 0.
        counts: (I,) training events by item, for ties and for queries without history.
        last: how many of the newest history items are read; None reads all.
        decay: weight of a history item one step older.
        session_weight: weight of history items of an earlier time than the newest; needs the query's times.
    """

    def __init__(
        self, matrix: Any, counts: np.ndarray, *, last: int | None, decay: float, session_weight: float = 1.0
    ) -> None:
        sparse = scipy_sparse()
        self.popularity = Popularity(counts)
        matrix = sparse.csr_matrix(matrix, dtype=np.float32)
        matrix.sort_indices()
        self.matrix = matrix
        self.last, self.decay, self.session_weight = last, decay, session_weight
        # Columns by popularity, so that "equal score: the more popular" is "equal score: the earlier column".
        # The values are copied: sorting works in place.
        self._by_place = sparse.csr_matrix(
            (matrix.data.copy(), self.popularity.place[matrix.indices], matrix.indptr), shape=matrix.shape
        )
        self._by_place.sort_indices()

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query; history items that the matrix does not know are skipped."""
        sparse = scipy_sparse()
        num_items = len(self.popularity)
        read = [self._read(query, num_items) for query in queries]
        histories = [items for items, _ in read]
        indptr = offsets_of(np.array([len(history) for history in histories], dtype=np.int64))
        items = np.concatenate(histories) if histories else np.empty(0, np.int64)
        ages = np.repeat(indptr[1:], np.diff(indptr)) - 1 - np.arange(len(items))
        weights = np.power(self.decay, ages, dtype=np.float64)
        if read:
            weights *= np.concatenate([session for _, session in read])
        left = sparse.csr_matrix((weights, items, indptr), shape=(len(queries), num_items))
        work = offsets_of(np.diff(self.matrix.indptr)[items])[indptr]
        answers = []
        for begin, end in _blocks(work):
            product = left[begin:end] @ self._by_place
            answers.append(best(product, queries[begin:end], self.popularity, k))
        if not answers:
            return Candidates(items=np.empty((0, k), np.int32), scores=np.empty((0, k), np.float32))
        return Candidates(
            items=np.concatenate([answer.items for answer in answers]),
            scores=np.concatenate([answer.scores for answer in answers]),
        )

    def _read(self, query: Query, num_items: int) -> tuple[np.ndarray, np.ndarray]:
        """Items that are read, oldest first, and the session's part of their weights."""
        known = (query.history >= 0) & (query.history < num_items)
        items = query.history[known]
        first = 0 if self.last is None else max(len(items) - self.last, 0)
        session = np.ones(len(items) - first)
        if self.session_weight != 1 and query.times is not None and len(session):
            times = query.times[known][first:]
            session[times != times[-1]] = self.session_weight
        return items[first:], session


class Reading(Protocol):
    """The part of every configuration that says how a history is read."""

    @property
    def last(self) -> int | None: ...  # noqa: D102
    @property
    def decay(self) -> float: ...  # noqa: D102
    @property
    def session_weight(self) -> float: ...  # noqa: D102


Config = TypeVar("Config", bound=Reading)


class NeighbourChannel(ABC, Generic[Config]):
    """A channel that reads histories against a matrix; a subclass says how the matrix is counted.

    Without a history popular items come (score 0).

    Attributes:
        neighbours: the matrix, and how a history is read against it.
        config: settings that it was fitted with.
    """

    name: ClassVar[str]

    def __init__(self, matrix: Any, counts: np.ndarray, config: Config) -> None:
        self.neighbours = Neighbours(
            matrix, counts, last=config.last, decay=config.decay, session_weight=config.session_weight
        )
        self.config = config

    @classmethod
    @abstractmethod
    def fit(cls, histories: Histories, num_items: int, config: Config | None = None) -> Self:
        """Count the matrix of ``num_items`` items in the training histories."""

    @property
    def counts(self) -> np.ndarray:
        """float64 (I,) training events by item."""
        return self.neighbours.popularity.counts

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query."""
        return self.neighbours.recall(queries, k)

    def state(self) -> dict[str, np.ndarray]:
        """What makes the channel again: ``indptr`` int64 (I+1,), ``indices`` int32, ``values`` float32, ``counts``."""
        matrix = self.neighbours.matrix
        return {
            "indptr": matrix.indptr.astype(np.int64),
            "indices": matrix.indices.astype(np.int32),
            "values": matrix.data,
            "counts": self.counts.astype(np.float64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: Config) -> Self:
        """The channel whose ``state()`` this was."""
        items = len(state["counts"])
        matrix = scipy_sparse().csr_matrix((state["values"], state["indices"], state["indptr"]), shape=(items, items))
        return cls(matrix, np.asarray(state["counts"], dtype=np.float64), config)


def _blocks(work: np.ndarray) -> list[tuple[int, int]]:
    """Row ranges of at most ``_PAIRS_A_BLOCK`` pairs; ``work[r]`` pairs stand before row r."""
    cuts = [0]
    rows = len(work) - 1
    while cuts[-1] < rows:
        end = int(np.searchsorted(work, work[cuts[-1]] + _PAIRS_A_BLOCK, side="right")) - 1
        cuts.append(min(max(end, cuts[-1] + 1), rows))
    return list(itertools.pairwise(cuts))


def keep_strongest(matrix: Any, neighbours: int | None) -> Any:
    """Keep the ``neighbours`` largest values of each CSR row (ties by lower column)."""
    if neighbours is None or matrix.nnz == 0:
        return matrix
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    rank = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
    kept = np.sort(order[rank < neighbours])
    lengths = np.minimum(np.diff(matrix.indptr), neighbours)
    indptr = offsets_of(lengths)
    return scipy_sparse().csr_matrix((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


def check_history(last: int | None, decay: float, neighbours: int | None) -> None:
    """Refuse settings of a history's reading that mean nothing."""
    if (last is not None and last < 1) or not 0 < decay <= 1 or (neighbours is not None and neighbours < 1):
        raise ConfigError(
            "the history cannot be read like this",
            seen=f"last={last}, decay={decay}, neighbours={neighbours}",
            allowed="last >= 1 or None, 0 < decay <= 1, neighbours >= 1 or None",
            fix="correct the channel's configuration",
        )
