"""Item-to-item scoring, shared by co-occurrence and transition counts.

    score(j | h) = Σ_{a < last} decay^a · s(h_a) · M[h_a, j]        a = 0 is the newest item of the history

s is 1 for items that share the newest item's time, ``session_weight`` (1 unless set) for older ones.
Item-based top-N after Deshpande & Karypis (TOIS 2004); the decay by position is that of Ludewig & Jannach,
"Evaluation of session-based recommendation algorithms" (2018). Deviation: only the matrix differs between channels
(``NeighbourChannel.fit``), so they share one sparse product; float sums run in a fixed order, so a batch answers as
its rows alone.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from genrecall.catalog.histories import Histories, offsets_of
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.selection import Popularity, all_places, best_of, best_of_all, scipy_sparse

# Products are cut into row blocks of about this many scored pairs (12 bytes each, a few copies).
_PAIRS_A_BLOCK = 4_000_000
_FEW_ITEMS = 1 << 16  # up to here a sparse product of one query costs more in steps than in sums


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
        # In float64, as queries are: SciPy would convert the whole table for each product (2 ms of 3.4 for one query).
        self.table = sparse.csr_matrix(
            (matrix.data.astype(np.float64), self.popularity.place[matrix.indices], matrix.indptr), shape=matrix.shape
        )
        self.table.sort_indices()

    def read_as(self, *, last: int | None, decay: float, session_weight: float = 1.0) -> Neighbours:
        """The same matrix (shared, not copied), read otherwise."""
        other = copy.copy(self)
        other.last, other.decay, other.session_weight = last, decay, session_weight
        return other

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query; history items that the matrix does not know are skipped."""
        if len(queries) == 1 and len(self.popularity) <= _FEW_ITEMS:
            return best_of_all(self._sums(queries), queries, self.popularity, k)
        return best_of(self._products(queries), queries, self.popularity, k)

    def places(self, queries: Sequence[Query], targets: np.ndarray) -> np.ndarray:
        """int64 (R,) the place that each of ``targets`` (R,) would have in an endless ``recall``; 0 if excluded."""
        return all_places(self._products(queries), queries, self.popularity, targets)

    def _products(self, queries: Sequence[Query]) -> Iterator[tuple[int, int, Any]]:
        """Blocks of queries with their scores: SciPy CSR (rows, I) whose columns are places by popularity."""
        yield from products(self.asked(queries), self.table)

    def asked(self, queries: Sequence[Query]) -> Any:
        """How much each history item counts: SciPy CSR (R, I)."""
        return history_weights(
            queries, len(self.popularity), last=self.last, decay=self.decay, session_weight=self.session_weight
        )

    def _sums(self, query: Sequence[Query]) -> np.ndarray:
        """float64 (1, I) scores by place of the one query: what ``_products`` says, summed in the same order."""
        num_items = len(self.popularity)
        weights, items, _ = weighed(
            query, num_items, last=self.last, decay=self.decay, session_weight=self.session_weight
        )
        begin = self.table.indptr[items]
        lengths = self.table.indptr[items + 1] - begin
        ends = lengths.cumsum()
        pairs = np.arange(lengths.sum()) + np.repeat(begin - (ends - lengths), lengths)
        worth = self.table.data[pairs] * np.repeat(weights, lengths)
        return np.bincount(self.table.indices[pairs], worth, num_items)[None]


def history_weights(
    queries: Sequence[Query], num_items: int, *, last: int | None, decay: float, session_weight: float = 1.0
) -> Any:
    """How much each history item counts: SciPy CSR float64 (R, I), a row's items from old to new.

    Items that the catalog does not know are skipped; settings as in :class:`Neighbours`.
    """
    if not queries:
        return scipy_sparse().csr_matrix((0, num_items))
    parts = weighed(queries, num_items, last=last, decay=decay, session_weight=session_weight)
    return scipy_sparse().csr_matrix(parts, shape=(len(queries), num_items))


def weighed(
    queries: Sequence[Query], num_items: int, *, last: int | None, decay: float, session_weight: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``history_weights`` of R ≥ 1 queries as its arrays: float64 weights, int64 items, int64 (R+1,) offsets."""
    rows = np.repeat(np.arange(len(queries)), [len(query.history) for query in queries])
    items = np.concatenate([query.history for query in queries]).astype(np.int64)
    known = (items >= 0) & (items < num_items)
    rows, items = rows[known], items[known]
    ends = np.cumsum(np.bincount(rows, minlength=len(queries)))
    ages = ends[rows] - 1 - np.arange(len(items))
    weights = np.power(decay, ages, dtype=np.float64)
    if session_weight != 1:
        weights[_earlier(queries, known, ends[rows] - 1)] *= session_weight
    read = ages < (len(items) if last is None else last)
    return weights[read], items[read], offsets_of(np.bincount(rows[read], minlength=len(queries)))


def _earlier(queries: Sequence[Query], known: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """bool: which known history events are of an earlier time than the newest of their query (at ``newest``)."""
    timeless = [np.zeros(len(query.history), np.int64) if query.times is None else query.times for query in queries]
    times = np.concatenate(timeless)[known]
    return times != times[newest]


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

    Counting comes in two steps, so that configurations that differ in the second only share the first: ``count`` goes
    through the events, ``weigh`` turns what was counted into similarities. Without a history popular items come
    (score 0).

    Attributes:
        name: the class's, unless the channel was ``named`` otherwise.
        neighbours: the matrix, and how a history is read against it.
        config: settings that it was fitted with.
        counted_by: names of the settings that ``count`` reads.
    """

    name: str
    counted_by: ClassVar[tuple[str, ...]]

    def __init__(self, matrix: Any, counts: np.ndarray, config: Config) -> None:
        self.neighbours = Neighbours(
            matrix, counts, last=config.last, decay=config.decay, session_weight=config.session_weight
        )
        self.config = config

    @classmethod
    def fit(cls, histories: Histories, num_items: int, config: Config | None = None) -> Self:
        """Count the matrix of ``num_items`` items in the training histories.

        Without a configuration, by the one that suits them.
        """
        config = config or cls.suited_to(histories)
        counts = histories.item_counts(num_items).astype(np.float64)
        return cls(cls.weigh(cls.count(histories, num_items, config), counts, config), counts, config)

    @classmethod
    @abstractmethod
    def suited_to(cls, histories: Histories) -> Config:
        """The configuration for this kind of events."""

    @classmethod
    @abstractmethod
    def count(cls, histories: Histories, num_items: int, config: Config) -> Any:
        """What ``weigh`` needs of the events: a SciPy matrix that depends on the settings ``counted_by`` only."""

    @classmethod
    @abstractmethod
    def weigh(cls, counted: Any, counts: np.ndarray, config: Config) -> Any:
        """The SciPy CSR matrix (I, I) of what was counted, with ``counts`` float64 (I,) training events by item."""

    def read_as(self, config: Config) -> Self:
        """The channel of a configuration that differs from this one's in the reading of histories only."""
        other = copy.copy(self)
        other.config = config
        other.neighbours = self.neighbours.read_as(
            last=config.last, decay=config.decay, session_weight=config.session_weight
        )
        return other

    def named(self, name: str) -> Self:
        """The same channel under another name: two of a class can stand side by side."""
        other = copy.copy(self)
        other.name = name
        return other

    @property
    def popularity(self) -> Popularity:
        """Breaks ties and fills lists."""
        return self.neighbours.popularity

    @property
    def counts(self) -> np.ndarray:
        """float64 (I,) training events by item."""
        return self.popularity.counts

    @property
    def table(self) -> Any:
        """SciPy CSR (I, I): what each history item says of each place by popularity."""
        return self.neighbours.table

    def asked(self, queries: Sequence[Query]) -> Any:
        """SciPy CSR (R, I): how much each history item counts."""
        return self.neighbours.asked(queries)

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query."""
        return self.neighbours.recall(queries, k)

    def places(self, queries: Sequence[Query], targets: np.ndarray) -> np.ndarray:
        """int64 (R,) the place that each of ``targets`` (R,) would have in an endless list; 0 if excluded."""
        return self.neighbours.places(queries, targets)

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


def products(left: Any, right: Any) -> Iterator[tuple[int, int, Any]]:
    """``left @ right`` (SciPy CSR) in row blocks of bounded work: first row, row behind the last, product."""
    work = offsets_of(np.diff(right.indptr)[left.indices])[left.indptr]
    begin = 0
    while begin < left.shape[0]:
        end = int(np.searchsorted(work, work[begin] + _PAIRS_A_BLOCK, side="right")) - 1
        end = min(max(end, begin + 1), left.shape[0])
        block = left if end - begin == left.shape[0] else left[begin:end]  # few queries are one block, as they are
        yield begin, end, block @ right
        begin = end


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
            fix="correct what reads the history, such as --decay",
        )
