"""Methods that need no fit, floors and diversity: each against its formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrecall.recall.fusion import Explained, Fusion, FusionConfig
from genrecall.recall.fusion.diversity import by_sids, by_vectors, diversified
from genrecall.recall.fusion.floors import with_floors

from .lists import COUNTS, answers

CANDIDATES = {
    "a": answers([(3, 9.0), (5, 5.0), (6, 1.0)], [(1, 2.0)]),
    "b": answers([(5, -1.0), (8, -2.0)], [(1, -1.0), (2, -3.0)]),
}


def fused(method: str, weights: tuple[float, float] = (1.0, 1.0)) -> list[list[tuple[int, float]]]:
    made = Fusion(FusionConfig(channels=("a", "b"), method=method), COUNTS, weights=np.array(weights))  # type: ignore[arg-type]
    return [[(entry.item, entry.score) for entry in row] for row in made.explain(CANDIDATES, 4)]


def test_scores_are_normalised_within_each_list_and_summed() -> None:
    third = 1 / 3
    expected = [(5, third + 2 * third * 0.5 + 1.0), (3, 1.0), (8, 0.5), (6, third)]
    assert fused("scores")[0] == [(item, pytest.approx(value)) for item, value in expected]
    assert fused("scores")[1] == [(1, pytest.approx(2.0)), (2, pytest.approx(0.5))]
    assert [item for item, _ in fused("scores", (4.0, 1.0))[0]][:2] == [3, 5]


def test_quotas_share_the_first_places_as_the_weights_say() -> None:
    a = answers([(item, 12.0 - item) for item in range(6)])
    b = answers([(item, 12.0 - item) for item in range(6, 12)])
    for weights, shares in (((1.0, 1.0), (3, 3)), ((2.0, 1.0), (4, 2)), ((5.0, 1.0), (5, 1))):
        made = Fusion(FusionConfig(channels=("a", "b"), method="quota"), COUNTS, weights=np.array(weights))
        first = made.fuse({"a": a, "b": b}, 6).items[0]
        assert ((first < 6).sum(), (first >= 6).sum()) == shares
        assert first[first < 6].tolist() == sorted(first[first < 6])  # each channel's own order stands
    assert [item for item, _ in fused("quota")[0]] == [3, 5, 8, 6]


def entry(item: int, score: float, *channels: str) -> Explained:
    return Explained(item=item, score=score, ranks=dict.fromkeys(channels, 1), scores=dict.fromkeys(channels, 1.0))


def test_a_floor_takes_the_worst_place_that_nobody_needs() -> None:
    found = [entry(0, 9, "a"), entry(1, 8, "a", "c"), entry(2, 7, "a"), entry(3, 6, "b"), entry(4, 5, "c")]
    assert [e.item for e in with_floors(found, {}, 3)] == [0, 1, 2]
    assert [e.item for e in with_floors(found, {"b": 1}, 3)] == [0, 1, 3]
    assert [e.item for e in with_floors(found, {"b": 1, "c": 2}, 3)] == [1, 3, 4]
    assert [e.item for e in with_floors(found, {"b": 5}, 3)] == [0, 1, 3]  # it has no more


@given(
    st.lists(st.sets(st.sampled_from("abc"), min_size=1), max_size=14),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)),
    st.integers(1, 8),
)
def test_floors_are_met_where_they_fit(channels: list[set[str]], floors: dict[str, int], k: int) -> None:
    found = [entry(item, float(-item), *sorted(names)) for item, names in enumerate(channels)]
    answer = with_floors(found, floors, k)
    assert len(answer) == min(k, len(found))
    assert [e.item for e in answer] == sorted({e.item for e in answer})
    if sum(floors.values()) <= k:
        for name, least in floors.items():
            listed = sum(name in names for names in channels)
            assert sum(name in e.ranks for e in answer) >= min(least, listed)


def test_diversity_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = [
        entry(int(item), score) for item, score in zip(rng.permutation(12), np.sort(rng.random(12))[::-1], strict=True)
    ]
    top, low = found[0].score, found[-1].score
    for balance in (0.0, 0.5, 0.9, 1.0):
        chosen: list[Explained] = []
        while len(chosen) < 5:

            def gain(e: Explained, chosen: list[Explained] = chosen, balance: float = balance) -> float:
                near = max([0.0, *(float(vectors[e.item] @ vectors[c.item]) for c in chosen)])
                return balance * (e.score - low) / (top - low) - (1 - balance) * near

            left = [e for e in found if e not in chosen]
            chosen.append(max(left, key=gain))
        assert diversified(found, by_vectors(vectors.__getitem__), 5, balance) == chosen


def test_diversity_by_sids() -> None:
    sids = np.array([[0, 0], [0, 0], [0, 1], [1, 0]])
    assert by_sids(sids)(0, np.arange(4)).tolist() == [1.0, 1.0, 0.5, 0.0]
    found = [entry(0, 1.0), entry(1, 0.99), entry(2, 0.98), entry(3, 0.97)]
    assert [e.item for e in diversified(found, by_sids(sids), 3, 0.3)] == [0, 3, 2]
    assert diversified(found[:1], by_sids(sids), 3, 0.3) == found[:1]
