"""The best k of sparse scores, with one rule for ties.

    list(q) = first k of I \\ exclude(q), ordered by (−score, −training count, index)

The rule is that of Ferrari Dacrema et al., "Are we really making much progress?" (RecSys 2019): ties must not depend on
storage order. Deviation: items without any score count as score 0, so a short list is completed by popularity
instead of being padded, and a query without history receives the popular items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from genrecall.errors import DependencyError
from genrecall.recall.channel import Candidates, Query

_LOOK = 16  # how many times the items that are wanted are looked at first where a rule bars some
_FULL = 0.1  # from this share of stored cells on, sorting them costs more than looking at all cells

Blocks = Iterable[tuple[int, int, Any]]
"""Rows of queries with their scores: first row, row behind the last, SciPy CSR (rows, I) by place."""


def scipy_sparse() -> Any:
    """The module ``scipy.sparse``; a missing SciPy is the user's to mend."""
    try:
        import scipy.sparse
    except ModuleNotFoundError as error:
        raise DependencyError("scipy", extra="eval", purpose="a channel that counts co-occurrence") from error
    return scipy.sparse


class Popularity:
    """Items by training count: the order that breaks ties and fills short lists.

    Attributes:
        counts: (I,) training events (or decayed weights) by item.
        order: int32 (I,) items, most popular first, ties by index.
        place: int32 (I,) inverse of ``order``.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self.counts = counts
        self.order = np.lexsort((np.arange(len(counts)), -counts)).astype(np.int32)
        self.place = np.empty(len(counts), dtype=np.int32)
        self.place[self.order] = np.arange(len(counts), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.counts)

    def first(self, k: int, taken: np.ndarray, available: np.ndarray | None = None) -> np.ndarray:
        """The ``k`` (or fewer) most popular items that are not in ``taken`` (items, any order, repeats allowed).

        ``available`` bool (I,): nor any that it is False for.
        """
        wanted = k + len(taken)
        prefix = self.order[:wanted]
        if available is not None:
            ahead = self.order[: _LOOK * wanted]
            prefix = ahead[available[ahead]]
            if len(prefix) < wanted:
                prefix = self.order[available[self.order]]
            return prefix[~np.isin(prefix, taken)][:k]
        if len(taken) == 0:
            return prefix
        free = np.ones(len(prefix), dtype=bool)
        places = self.place[taken]
        free[places[places < len(prefix)]] = False
        return prefix[free][:k]


def exclusions(queries: Sequence[Query], num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and items (two int64 arrays) of everything the queries exclude; items outside the catalog are left out."""
    return _among([query.excluded for query in queries], num_items)


def _among(excluded: Sequence[np.ndarray], num_items: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.repeat(np.arange(len(excluded)), [len(own) for own in excluded])
    items = np.concatenate(excluded).astype(np.int64) if excluded else np.empty(0, np.int64)
    known = (items >= 0) & (items < num_items)
    return rows[known], items[known]


def best(scores: Any, queries: Sequence[Query], popularity: Popularity, k: int) -> Candidates:
    """The best ``k`` items of each query.

    Args:
        scores: SciPy CSR (R, I) whose columns are *places* (``popularity.place``), values > 0.
        queries: R queries; only what they exclude is read.
        popularity: breaks ties and fills rows that have fewer than ``k`` scored items (with score 0).
        k: length of the lists; may exceed I, the rest is padding.
    """
    rows_R, items_I = scores.shape
    if scores.nnz > _FULL * rows_R * items_I:
        return best_of_all(scores.toarray(), queries, popularity, k)
    values, place_of = _stored_cells(scores, queries, popularity)
    return _listed(values, place_of, queries, popularity, k)


def best_of_all(scores: np.ndarray, queries: Sequence[Query], popularity: Popularity, k: int) -> Candidates:
    """``best`` of scores float64 (R, I) by place that are not stored sparsely, 0 where there is none."""
    rows, items = exclusions(queries, scores.shape[1])
    values, _ = _all_cells(scores, (rows, popularity.place[items].astype(np.int64)))
    return _listed(values, None, queries, popularity, k)


def _listed(
    values: np.ndarray, place_of: np.ndarray | None, queries: Sequence[Query], popularity: Popularity, k: int
) -> Candidates:
    """The best of cells float32 (R, C) with their places int64 (R, C); None: a cell's column is its place."""
    rows_R, items_I = len(values), len(popularity)
    chosen, top = top_columns(values, min(k, values.shape[1]))
    places = chosen if place_of is None else np.take_along_axis(place_of, chosen, 1)
    items = np.full((rows_R, k), -1, dtype=np.int32)
    ranked = np.full((rows_R, k), -np.inf, dtype=np.float32)
    real = np.isfinite(top)
    items[:, : top.shape[1]] = np.where(real, popularity.order[places], -1)
    ranked[:, : top.shape[1]] = top

    for row in np.flatnonzero(real.sum(1) < min(k, items_I)).tolist():
        found = int(real[row].sum())
        exclude = queries[row].exclude
        exclude = exclude[(exclude >= 0) & (exclude < items_I)]
        taken = np.concatenate((exclude, items[row, :found]))
        extra = popularity.first(k - found, taken, queries[row].available)
        items[row, found : found + len(extra)] = extra
        ranked[row, found : found + len(extra)] = 0.0
    return Candidates(items=items, scores=ranked)


def _all_cells(scores: np.ndarray, excluded: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, None]:
    """float32 (R, I) scores by place, −inf where there is none or the cell is excluded: for nearly full rows."""
    values = scores.astype(np.float32)
    values[~(values > 0)] = -np.inf
    values[excluded] = -np.inf
    return values, None


def _stored_cells(scores: Any, queries: Sequence[Query], popularity: Popularity) -> tuple[np.ndarray, np.ndarray]:
    """The same, of stored cells only, side by side: float32 (R, longest row), and int64 their places, ascending."""
    rows_R, items_I = scores.shape
    scores.sum_duplicates()  # also sorts the columns, so that earlier means more popular
    row_of = np.repeat(np.arange(rows_R), np.diff(scores.indptr))
    rows, items = _among([query.exclude for query in queries], items_I)
    banned = np.isin(row_of * items_I + scores.indices, rows * items_I + popularity.place[items].astype(np.int64))
    for row, query in enumerate(queries):
        if query.available is not None:  # a rule may bar many more items than a row stores
            stored = slice(*scores.indptr[row : row + 2])
            banned[stored] |= ~query.available[popularity.order[scores.indices[stored]]]
    keep = ~banned & (scores.data > 0)
    row_of, places, stored = row_of[keep], scores.indices[keep], scores.data[keep].astype(np.float32)
    lengths = np.bincount(row_of, minlength=rows_R)
    width = max(int(lengths.max(initial=0)), 1)
    column = np.arange(len(row_of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    values = np.full((rows_R, width), -np.inf, dtype=np.float32)
    values[row_of, column] = stored
    place_of = np.zeros((rows_R, width), dtype=np.int64)
    place_of[row_of, column] = places
    return values, place_of


def best_of(blocks: Blocks, queries: Sequence[Query], popularity: Popularity, k: int) -> Candidates:
    """``best`` of all queries, block by block."""
    answers = [best(scores, queries[begin:end], popularity, k) for begin, end, scores in blocks]
    if not answers:
        return Candidates(items=np.empty((0, k), np.int32), scores=np.empty((0, k), np.float32))
    return Candidates(
        items=np.concatenate([answer.items for answer in answers]),
        scores=np.concatenate([answer.scores for answer in answers]),
    )


def all_places(blocks: Blocks, queries: Sequence[Query], popularity: Popularity, targets: np.ndarray) -> np.ndarray:
    """``places_of`` all targets, block by block."""
    parts = [places_of(scores, queries[begin:end], popularity, targets[begin:end]) for begin, end, scores in blocks]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def places_of(scores: Any, queries: Sequence[Query], popularity: Popularity, targets: np.ndarray) -> np.ndarray:
    """int64 (R,) where ``best`` would put each target in a list as long as the catalog, from 1; 0 for excluded ones.

    Nothing is sorted: a place is one more than the number of items that stand before it.

    Args:
        scores: SciPy CSR (R, I), as for ``best``; no cell twice.
        queries: R queries; only what they exclude is read.
        popularity: breaks ties.
        targets: int (R,) items of the catalog.
    """
    rows_R, items_I = scores.shape
    row_of = np.repeat(np.arange(rows_R), np.diff(scores.indptr))
    places, values = scores.indices, scores.data.astype(np.float32)
    goal_place = popularity.place[targets].astype(np.int64)
    goal = _cells(scores, np.arange(rows_R), goal_place)
    ahead = np.bincount(row_of[_outscores(values, places, goal[row_of], goal_place[row_of])], minlength=rows_R).astype(
        np.int64
    )
    # A target without score stands among the popular: before it come those that have no score either.
    unscored = goal <= 0
    scored_before = np.bincount(row_of[(values > 0) & (places < goal_place[row_of])], minlength=rows_R)
    ahead[unscored] += (goal_place - scored_before)[unscored]

    rows, items = exclusions(queries, items_I)
    rows, items = np.divmod(np.unique(rows * items_I + items), items_I)
    places = popularity.place[items].astype(np.int64)
    values = _cells(scores, rows, places)
    stood = _outscores(values, places, goal[rows], goal_place[rows])
    stood |= (values <= 0) & unscored[rows] & (places < goal_place[rows])
    ahead -= np.bincount(rows[stood], minlength=rows_R)
    ahead[rows[items == targets[rows]]] = -1
    return ahead + 1


def _cells(scores: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float32 values of single cells of a CSR matrix; 0 where nothing is stored."""
    if len(rows) == 0:
        return np.empty(0, np.float32)
    return np.asarray(scores[rows, columns], dtype=np.float32).ravel()


def _outscores(values: np.ndarray, places: np.ndarray, goal: np.ndarray, goal_place: np.ndarray) -> np.ndarray:
    """Whether scored items come before their row's target: by value, or by place where the values are equal."""
    return (values > np.maximum(goal, 0)) | ((values > 0) & (values == goal) & (places < goal_place))


def top_columns(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns (R, k) of the ``k`` largest values of each row and the values; equal values by lower column."""
    rows, width = values.shape
    assert 0 < k <= width
    if k < width:
        threshold = np.partition(values, width - k, axis=1)[:, width - k, None]
        take = values >= threshold
        # Of the values that equal the k-th largest, the first columns fill what the larger ones leave.
        for row in np.flatnonzero(take.sum(1) > k):
            level = np.flatnonzero(values[row] == threshold[row])
            take[row, level[k - int(take[row].sum()) :]] = False
        columns = np.nonzero(take)[1].reshape(rows, k)
    else:
        columns = np.broadcast_to(np.arange(width), (rows, width))
    kept = np.take_along_axis(values, columns, 1)
    order = np.argsort(-kept, axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1), np.take_along_axis(kept, order, 1)
