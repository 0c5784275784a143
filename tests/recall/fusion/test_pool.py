from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.recall.channel import Candidates
from genrecall.recall.fusion.pool import Pool

from .lists import NUM_ITEMS, POPULARITY, answers, several


def pool_of(candidates: dict[str, Candidates], top: int = 8) -> Pool:
    return Pool.of(list(candidates.values()), POPULARITY, top)


@settings(deadline=None, max_examples=30)
@given(several(), st.integers(1, 8))
def test_the_union_keeps_every_channels_evidence(candidates: dict[str, Candidates], top: int) -> None:
    pool = pool_of(candidates, top)
    for row in range(3):
        begin, end = pool.offsets[row : row + 2]
        lists = [[item for item in answer.items[row, :top] if item >= 0] for answer in candidates.values()]
        assert pool.items[begin:end].tolist() == sorted(set().union(*lists))
        for where in range(begin, end):
            for channel, answer in enumerate(candidates.values()):
                item = pool.items[where]
                place = lists[channel].index(item) + 1 if item in lists[channel] else 0
                assert pool.ranks[where, channel] == place
                if place:
                    assert pool.scores[where, channel] == answer.scores[row, place - 1]
                else:
                    assert np.isnan(pool.scores[where, channel])


@settings(deadline=None, max_examples=30)
@given(several(), st.data())
def test_places_are_those_of_the_lists(candidates: dict[str, Candidates], data: st.DataObject) -> None:
    pool = pool_of(candidates)
    values = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(pool.items), max_size=len(pool.items))), float)
    listed = pool.best(values, NUM_ITEMS).items
    targets = np.array(data.draw(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=3, max_size=3)))
    expected = [row.index(goal) + 1 if goal in row else 0 for row, goal in zip(listed.tolist(), targets, strict=True)]
    assert pool.places(values, pool.find(targets)).tolist() == expected


@settings(deadline=None, max_examples=30)
@given(several(), st.permutations([0, 1, 2]), st.integers(1, 2))
def test_some_requests_are_the_same_as_alone(candidates: dict[str, Candidates], order: list[int], count: int) -> None:
    chosen = np.array(order[:count])
    part = pool_of(candidates).take(chosen)
    alone = pool_of({n: Candidates(items=a.items[chosen], scores=a.scores[chosen]) for n, a in candidates.items()})
    for name in ("offsets", "items", "ranks", "scores", "rows", "tie"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
    whole = pool_of(candidates).take(np.array(order))
    listed, own = whole.best(-whole.tie.astype(float), 3), alone.best(-alone.tie.astype(float), 3)
    np.testing.assert_array_equal(own.items, listed.items[:count])
    np.testing.assert_array_equal(own.scores, listed.scores[:count])


def test_fillers_are_no_evidence_and_come_last() -> None:
    counted = answers([(3, 0.5), (0, 0.0), (1, 0.0)])
    written = answers([(9, -0.25), (8, -2.0)])
    pool = pool_of({"counted": counted, "written": written})
    answer = pool.best(np.where(pool.items == 9, 1.0, 2.0), 9)
    assert answer.items[0].tolist() == [3, 8, 9, 0, 1, -1, -1, -1, -1]
    assert answer.scores[0, :5].tolist() == [2, 2, 1, 1, 1]
    assert pool.places(np.ones(5), pool.find(np.array([1]))).tolist() == [5]


def test_a_certain_log_probability_is_evidence() -> None:
    pool = pool_of({"written": answers([(2, 0.0), (4, -9.0)])})
    assert pool.ranks[:, 0].tolist() == [1, 2]


def test_places_beyond_the_top_join_without_evidence() -> None:
    pool = Pool.of([answers([(3, 5.0), (0, 4.0), (1, 3.0)])], POPULARITY, 1, 3)
    assert pool.best(np.zeros(3), 3).items.tolist() == [[3, 0, 1]]
    assert pool.known.tolist() == [False, False, True]


def test_equal_values_go_to_the_better_place_then_to_the_more_popular() -> None:
    pool = pool_of({"a": answers([(9, 2.0), (7, 1.0)]), "b": answers([(6, 3.0)]), "c": answers([(4, 3.0), (5, 2.0)])})
    assert pool.best(np.zeros(5), 5).items.tolist() == [[4, 6, 9, 5, 7]]


def test_a_silent_channel_is_as_one_left_out() -> None:
    candidates = {"a": answers([(9, 2.0), (7, 1.0)]), "b": answers([(6, 3.0)])}
    rest = pool_of(candidates).without(1)
    assert rest.known.tolist() == [False, True, True]
    assert pool_of({**candidates, "b": answers([])}).known.all()
    assert len(pool_of({"a": answers([], []), "b": answers([], [])}).items) == 0
