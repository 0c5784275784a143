from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.errors import DependencyError
from genrecall.recall import selection
from genrecall.recall.selection import Popularity, best, places_of, scipy_sparse, top_columns

from .contract import ask, rows


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 6))
def test_top_columns_is_a_stable_sort(values: list[list[int]], k: int) -> None:
    columns, kept = top_columns(np.array(values, np.float32), k)
    for row, found, scores in zip(values, columns.tolist(), kept.tolist(), strict=True):
        expected = sorted(range(6), key=lambda column: (-row[column], column))[:k]
        assert found == expected
        assert scores == [row[column] for column in expected]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(0, 3), min_size=7, max_size=7),
    st.lists(st.integers(0, 2), min_size=7, max_size=7),
    st.sets(st.integers(0, 6)),
    st.integers(1, 9),
    st.sampled_from([0.0, 1.0]),
)
def test_lists_equal_a_sort_of_the_whole_catalog(
    counts: list[int], scores: list[int], out: set[int], k: int, full: float
) -> None:
    popularity = Popularity(np.array(counts, np.float64))
    by_place = np.array(scores, np.float32)[popularity.order]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_FULL", full)  # both ways of reading the scores
        answer = best(scipy_sparse().csr_matrix(by_place[None]), [ask(exclude=tuple(out))], popularity, k)
    expected = sorted(set(range(7)) - out, key=lambda item: (-scores[item], -counts[item], item))[:k]
    assert rows(answer) == [expected]
    assert answer.scores[0, : len(expected)].tolist() == [scores[item] for item in expected]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3), min_size=7, max_size=7),
    st.lists(st.lists(st.integers(0, 2), min_size=7, max_size=7), min_size=1, max_size=3),
    st.lists(st.integers(-1, 8), max_size=6),
    st.integers(0, 6),
    st.booleans(),
)
def test_places_are_those_of_an_endless_list(
    counts: list[int], scores: list[list[int]], out: list[int], target: int, explicit_zeros: bool
) -> None:
    popularity = Popularity(np.array(counts, np.float64))
    matrix = scipy_sparse().csr_matrix(np.array(scores, np.float32)[:, popularity.order])
    if explicit_zeros and matrix.nnz:
        matrix.data[0] = 0
    queries = [ask(exclude=tuple(out))] * len(scores)
    found = places_of(matrix.copy(), queries, popularity, np.full(len(scores), target))
    for place, listed in zip(found.tolist(), rows(best(matrix, queries, popularity, 7)), strict=True):
        assert place == (listed.index(target) + 1 if target in listed else 0)


def test_a_missing_scipy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(DependencyError, match=r"genrecall\[eval\]"):
        scipy_sparse()
