from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.eval.lists import ListFigures


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_figures_equal_plain_loops(rows: int, cut: int, seed: int, by_vector: bool) -> None:
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(9)[:7] for _ in range(rows)]).astype(np.int32)
    for row in items:
        row[rng.integers(0, 8) :] = -1  # padding at the end, up to a whole list
    counts, vectors, groups = rng.integers(0, 5, 9), rng.normal(size=(9, 4)), rng.integers(0, 3, 9)
    total = ListFigures((2, 5), cut, counts, vectors if by_vector else None, groups)
    for row in items:  # batches of any size
        total.add(row[None])
    found = total.figures()
    bits, spreads = [], []
    for row in items.tolist():
        shown = [item for item in row[:cut] if item >= 0]
        bits += [-math.log2((counts[item] + 1) / (counts.sum() + 9)) for item in shown]
        pairs = [(a, b) for a in shown for b in shown if a != b]
        if by_vector:
            cosine = [
                vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]) for a, b in pairs
            ]
            distances = [1 - value for value in cosine]
        else:
            distances = [float(groups[a] != groups[b]) for a, b in pairs]
        spreads += [float(np.mean(distances))] if pairs else []
    assert found[f"novelty@{cut}"] == pytest.approx(np.mean(bits) if bits else 0)
    assert found[f"diversity@{cut}"] == pytest.approx(np.mean(spreads) if spreads else 0, abs=1e-5)
    assert found["coverage@2"] == len({item for row in items[:, :2].tolist() for item in row if item >= 0}) / 9


def test_without_vectors_or_groups_there_is_no_diversity() -> None:
    figures = ListFigures((5,), 5, np.ones(4))
    figures.add(np.array([[0, 1, 2, 3, -1]]))
    assert set(figures.figures()) == {"coverage@5", "gini@5", "novelty@5"}


def test_unknown_items_are_newer_than_popular_ones() -> None:
    def novelty(item: int) -> float:
        figures = ListFigures((1,), 1, np.array([100, 1, 0]))
        figures.add(np.array([[item]]))
        return figures.figures()["novelty@1"]

    assert novelty(0) < novelty(1) < novelty(2) < math.inf
