"""Collision rules against brute force and on adversarial codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.errors import CapacityError, ConfigError
from genrecall.sid.collisions import balanced, resolve, resolve_new
from genrecall.sid.space import SidSpace
from genrecall.telemetry import Bar


class TableDistances:
    """A stand-in for a quantiser whose costs are a fixed function of a one-number vector, the level and the code."""

    def __init__(self, levels: int, codes: int) -> None:
        self.levels, self.codes = levels, codes

    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        shift = codes[:, :level].sum(1, keepdims=True) if level else 0
        return np.abs(vectors * (level + 1) - np.arange(self.codes) - 0.3 * shift).astype(np.float32) % 5


def distinct(sids: np.ndarray) -> bool:
    return len(np.unique(sids, axis=0)) == len(sids)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int]:
    levels, codes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    items = draw(st.integers(1, min(codes**levels, 40)))
    few = draw(st.integers(1, codes))  # codes bunch in a corner of the space; few = 1: all identical
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return rng.integers(0, few, (items, levels)).astype(np.int32), rng.normal(size=(items, 1)), levels, codes


@settings(deadline=None, max_examples=40)
@given(worlds(), st.sampled_from(["reassign", "sinkhorn"]))
def test_distinct_whenever_the_space_has_room(world: tuple[np.ndarray, np.ndarray, int, int], rule: str) -> None:
    codes, vectors, levels, size = world
    quantizer = TableDistances(levels, size)
    bar = Bar("resolving", None, None)
    sids, space = resolve(codes, quantizer, vectors, rule, bar=bar)
    assert bar.done == bar.total
    assert space == SidSpace.uniform(levels, size)
    assert distinct(sids)
    assert sids.min() >= 0
    assert sids.max() < size
    assert np.array_equal(sids, resolve(codes, quantizer, vectors, rule)[0])


@settings(deadline=None, max_examples=40)
@given(worlds())
def test_reassign_moves_no_more_than_it_must(world: tuple[np.ndarray, np.ndarray, int, int]) -> None:
    codes, vectors, levels, size = world
    sids, _ = resolve(codes, TableDistances(levels, size), vectors, "reassign")
    assert int((sids == codes).all(1).sum()) == len(np.unique(codes, axis=0))
    cost = np.take_along_axis(TableDistances(levels, size).distances(vectors, codes, levels - 1), codes[:, -1:], 1)[
        :, 0
    ]
    for sid in np.unique(codes, axis=0):  # the nearest of a group keeps the SID
        group = np.flatnonzero((codes == sid).all(1))
        keeper = group[(sids[group] == sid).all(1)]
        assert cost[keeper[0]] == cost[group].min()


@settings(deadline=None, max_examples=40)
@given(worlds(), st.integers(0, 39), st.sampled_from(["reassign", "sinkhorn", "extra_level"]))
def test_new_items_leave_old_sids_alone(world: tuple[np.ndarray, np.ndarray, int, int], cut: int, rule: str) -> None:
    codes, vectors, levels, size = world
    quantizer, cut = TableDistances(levels, size), min(cut, len(codes))
    old, space = resolve(codes[:cut], quantizer, vectors[:cut], rule)
    if space.capacity < len(codes):
        with pytest.raises(CapacityError, match="cannot hold"):
            resolve_new(codes[cut:], quantizer, vectors[cut:], rule, space=space, taken=old)
        return
    new = resolve_new(codes[cut:], quantizer, vectors[cut:], rule, space=space, taken=old)
    assert distinct(np.concatenate([old, new]))


def test_a_mover_takes_the_nearest_free_code_under_its_prefix() -> None:
    codes = np.array([[0, 1], [0, 1], [0, 2], [1, 1]], np.int32)

    class Line(TableDistances):
        def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
            return np.abs(vectors - np.arange(self.codes)).astype(np.float32)

    sids, _ = resolve(codes, Line(2, 5), np.array([[1.1], [1.4], [2.0], [1.0]]), "reassign")
    assert sids.tolist() == [[0, 1], [0, 0], [0, 2], [1, 1]]  # code 2 is nearer to 1.4, but taken


def test_a_full_prefix_sends_items_to_the_next_nearest() -> None:
    codes = np.zeros((5, 2), np.int32)

    class Line(TableDistances):
        def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
            return np.abs(vectors - np.arange(self.codes)).astype(np.float32)

    sids, _ = resolve(codes, Line(2, 3), np.full((5, 1), 0.2), "reassign")
    assert sids.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]


def test_extra_level_numbers_the_owners() -> None:
    codes = np.array([[0, 1], [2, 2], [0, 1], [0, 1]], np.int32)
    sids, space = resolve(codes, TableDistances(2, 3), np.zeros((4, 1)), "extra_level")
    assert space.codes == (3, 3, 3)
    assert sids.tolist() == [[0, 1, 0], [2, 2, 0], [0, 1, 1], [0, 1, 2]]


def test_keep_changes_nothing_and_needs_no_room() -> None:
    codes = np.zeros((9, 1), np.int32)
    sids, space = resolve(codes, TableDistances(1, 2), np.zeros((9, 1)), "keep")
    assert np.array_equal(sids, codes)
    assert space.codes == (2,)


def test_too_small_a_space_and_unknown_rules_are_refused() -> None:
    codes = np.zeros((5, 2), np.int32)
    with pytest.raises(CapacityError, match="4 SIDs for 5 items"):
        resolve(codes, TableDistances(2, 2), np.zeros((5, 1)), "reassign")
    with pytest.raises(ConfigError, match="sinkhorn"):
        resolve(codes, TableDistances(2, 2), np.zeros((5, 1)), "luck")  # type: ignore[arg-type]


def test_balanced_plan_finds_the_assignment() -> None:
    cost = np.array([[0.0, 1.0, 9.0], [0.1, 5.0, 9.0], [0.2, 5.0, 6.0]])
    assert balanced(cost).argmax(1).tolist() == [1, 0, 2]
    lonely = np.array([[3.0, 0.5, 2.0]])
    assert balanced(lonely).argmax(1).tolist() == [1]
