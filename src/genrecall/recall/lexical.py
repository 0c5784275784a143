"""Lexical matching: items whose text shares rare words with the history's items, or with the search text.

    score(j | q) = Σ_t q_t · ln(1 + (I − n_t + ½) / (n_t + ½)) · f_tj / (f_tj + k₁ (1 − b + b |j| / mean |j|))
    q_t = occurrences in the search text, or Σ_{a < last} decay^a · f_t(h_a) of the history's items

BM25 (Robertson & Zaragoza, "The probabilistic relevance framework", 2009) as Lucene computes it, indexed by bm25s
(Lù 2024). Deviation: the index is read as a sparse matrix, so that weighted queries, exclusions and ties follow the
rules of all channels; a channel that was stored answers without bm25s.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from genrecall.errors import ConfigError, DependencyError
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.neighbours import check_history, history_weights, keep_strongest, products
from genrecall.recall.selection import Popularity, all_places, best_of, scipy_sparse
from genrecall.recall.tokens import words


@dataclass(frozen=True, kw_only=True)
class LexicalConfig:
    """Settings of :class:`LexicalChannel`.

    Attributes:
        k1: how soon repeated words stop counting.
        b: how much long texts are held back, 0 to 1.
        last: newest history items whose words are read; None reads all.
        decay: weight of a history item one step older.
        terms: words of a query that are looked up, those of the highest weight times idf; None looks up all. Frequent
            words cost most and say least.
    """

    k1: float = 1.2
    b: float = 0.75
    last: int | None = 5
    decay: float = 0.6
    terms: int | None = 64

    def __post_init__(self) -> None:
        check_history(self.last, self.decay, None)
        if self.k1 < 0 or not 0 <= self.b <= 1 or (self.terms is not None and self.terms < 1):
            raise ConfigError(
                "texts cannot be matched like this",
                seen=f"k1={self.k1}, b={self.b}, terms={self.terms}",
                allowed="k1 >= 0, 0 <= b <= 1, terms >= 1 or None",
                fix="correct LexicalConfig",
            )


class LexicalChannel:
    """Items with the words of the query: of its ``text`` where it has one, else of its history.

    Without either, or without a known word, popular items come (score 0).
    """

    name = "lexical"

    def __init__(
        self, occurrences: Any, weights: Any, vocabulary: Sequence[str], counts: np.ndarray, config: LexicalConfig
    ) -> None:
        """See :meth:`fit`; ``occurrences`` is SciPy CSR (I, V), ``weights`` (V, I)."""
        self.config = config
        self.popularity = Popularity(counts)
        self._occurrences, self._weights = occurrences.astype(np.float64), weights
        self._vocabulary = list(vocabulary)
        self._number = {word: number for number, word in enumerate(self._vocabulary)}
        places = self.popularity.place[weights.indices]
        self.table = scipy_sparse().csr_matrix(
            (weights.data.astype(np.float64), places, weights.indptr), shape=weights.shape
        )
        self.table.sort_indices()
        # The largest weight that a word has anywhere stands for its idf.
        self._strength = np.zeros(len(self._vocabulary))
        filled = np.flatnonzero(np.diff(weights.indptr))
        if len(filled):
            self._strength[filled] = np.maximum.reduceat(weights.data, weights.indptr[filled])

    @classmethod
    def fit(cls, texts: Sequence[str], counts: np.ndarray, config: LexicalConfig | None = None) -> Self:
        """Index I texts (see ``item_texts``); ``counts`` (I,) are training events, for ties.

        Raises:
            DependencyError: bm25s is not installed.
        """
        config = config or LexicalConfig()
        asked = [words(text) for text in texts]
        indexed = [words(text, singles=True) for text in texts]
        vocabulary = sorted({word for row in indexed for word in row})
        number = {word: place for place, word in enumerate(vocabulary)}
        occurrences = _occurrences(asked, number)
        weights = _bm25([[number[word] for word in row] for row in indexed], len(vocabulary), config)
        return cls(occurrences, weights, vocabulary, np.asarray(counts, dtype=np.float64), config)

    @property
    def counts(self) -> np.ndarray:
        """float64 (I,) training events by item."""
        return self.popularity.counts

    def read_as(self, config: LexicalConfig) -> Self:
        """The channel of a configuration that differs from this one's in the reading only (not in k1 and b)."""
        assert (config.k1, config.b) == (self.config.k1, self.config.b)
        other = copy.copy(self)
        other.config = config
        return other

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query."""
        return best_of(self._products(queries), queries, self.popularity, k)

    def places(self, queries: Sequence[Query], targets: np.ndarray) -> np.ndarray:
        """int64 (R,) the place that each of ``targets`` (R,) would have in an endless list; 0 if excluded."""
        return all_places(self._products(queries), queries, self.popularity, targets)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that, with the configuration, make the channel again; the vocabulary as UTF-8 lines."""
        return {
            **_arrays("occurrences", self._occurrences),
            **_arrays("weights", self._weights),
            "vocabulary": np.frombuffer("\n".join(self._vocabulary).encode(), dtype=np.uint8),
            "counts": self.popularity.counts,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: LexicalConfig) -> Self:
        """The channel whose ``state()`` this was."""
        vocabulary = state["vocabulary"].tobytes().decode().split("\n") if len(state["vocabulary"]) else []
        items = len(state["counts"])
        return cls(
            _matrix("occurrences", state, (items, len(vocabulary))),
            _matrix("weights", state, (len(vocabulary), items)),
            vocabulary,
            np.asarray(state["counts"], dtype=np.float64),
            config,
        )

    def asked(self, queries: Sequence[Query]) -> Any:
        """How much each word counts: SciPy CSR (R, V)."""
        sparse = scipy_sparse()
        history = history_weights(
            [Query() if query.text else query for query in queries],
            len(self.popularity),
            last=self.config.last,
            decay=self.config.decay,
        )
        asked = _occurrences([words(query.text or "") for query in queries], self._number)
        terms = (history @ self._occurrences + asked).tocsr()
        terms.sort_indices()
        if self.config.terms is not None and terms.nnz:
            strength = self._strength
            weighed = sparse.csr_matrix(
                (terms.data * strength[terms.indices], terms.indices, terms.indptr), terms.shape
            )
            terms = keep_strongest(weighed, self.config.terms)
            terms.data /= strength[terms.indices]
        return terms

    def _products(self, queries: Sequence[Query]) -> Iterator[tuple[int, int, Any]]:
        """Blocks of queries with their scores: SciPy CSR (rows, I) whose columns are places by popularity."""
        if queries:
            yield from products(self.asked(queries), self.table)


def _occurrences(rows: Sequence[Sequence[str]], number: Mapping[str, int]) -> Any:
    """How often each known word stands in each text: SciPy CSR float64 (texts, V), columns sorted."""
    known = [[number[word] for word in row if word in number] for row in rows]
    lengths = [len(row) for row in known]
    columns = np.fromiter((word for row in known for word in row), np.int64, sum(lengths))
    cells = (np.ones(len(columns)), (np.repeat(np.arange(len(rows)), lengths), columns))
    return scipy_sparse().coo_matrix(cells, shape=(len(rows), len(number))).tocsr()


def _bm25(texts: list[list[int]], num_words: int, config: LexicalConfig) -> Any:
    """What a word of a query adds to each item: SciPy CSR float32 (V, I)."""
    # Importing bm25s starts JAX, where that is installed, which by default takes most of the GPU for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import bm25s
    except ModuleNotFoundError as error:
        raise DependencyError("bm25s", extra="eval", purpose="the lexical channel") from error
    shape = (num_words, len(texts))
    if num_words == 0:
        return scipy_sparse().csr_matrix(shape, dtype=np.float32)
    index = bm25s.BM25(k1=config.k1, b=config.b, method="lucene")
    scores = index.build_index_from_ids(list(range(num_words)), texts, show_progress=False)
    weights = scipy_sparse().csr_matrix((scores["data"], scores["indices"], scores["indptr"]), shape=shape)
    weights.sort_indices()
    return weights


def _arrays(name: str, matrix: Any) -> dict[str, np.ndarray]:
    return {
        f"{name}.values": matrix.data.astype(np.float32),
        f"{name}.indices": matrix.indices.astype(np.int32),
        f"{name}.indptr": matrix.indptr.astype(np.int64),
    }


def _matrix(name: str, state: Mapping[str, np.ndarray], shape: tuple[int, int]) -> Any:
    parts = (state[f"{name}.values"], state[f"{name}.indices"], state[f"{name}.indptr"])
    return scipy_sparse().csr_matrix(parts, shape=shape)
