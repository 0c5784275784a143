"""Placement level by level against its definition: one mover after the other, each by all that is free."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.sid import placement
from genrecall.sid.placement import Distances, distinct_rows, place, ranks
from genrecall.sid.space import SidSpace
from genrecall.telemetry import Bar


class Table:
    """Costs that depend on a one-number vector and all codes before; whole numbers, so that many are equal."""

    def __init__(self, levels: int, codes: int) -> None:
        self.levels, self.codes = levels, codes
        self.asked: list[int] = []

    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        self.asked.append(len(vectors))
        before = codes[:, :level].astype(np.int64) @ np.arange(3, 3 + level)
        return ((vectors * (level + 2) + before[:, None] + 7 * np.arange(self.codes) ** 2) % 11).astype(np.float32)


def one_by_one(
    codes: np.ndarray, quantizer: Distances, vectors: np.ndarray, space: SidSpace, taken: np.ndarray
) -> np.ndarray:
    """The definition of ``place``."""

    def cost(row: int, prefix: tuple[int, ...], code: int) -> float:
        if len(prefix) == quantizer.levels:
            return code
        before = np.array([prefix], np.int32).reshape(1, -1)
        return float(quantizer.distances(vectors[row : row + 1], before, len(prefix))[0, code])

    sids = [tuple(sid) for sid in codes.tolist()]
    occupied = {tuple(sid) for sid in taken.tolist()}
    movers = []
    for row in sorted(range(len(sids)), key=lambda row: (sids[row], cost(row, sids[row][:-1], sids[row][-1]), row)):
        if sids[row] in occupied:
            movers.append(row)
        occupied.add(sids[row])
    for row in movers:
        free = [sid for sid in product(*map(range, space.codes)) if sid not in occupied]
        prefix = sids[row]
        while not any(sid[: len(prefix)] == prefix for sid in free):
            prefix = prefix[:-1]
        while len(prefix) < space.levels:
            open_codes = {sid[len(prefix)] for sid in free if sid[: len(prefix)] == prefix}
            prefix += (min(open_codes, key=lambda code: (cost(row, prefix, code), code)),)
        sids[row] = prefix
        occupied.add(prefix)
    return np.array(sids, np.int32).reshape(-1, space.levels)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, Table, np.ndarray, SidSpace, np.ndarray]:
    levels, size = draw(st.sampled_from([(1, 4), (2, 2), (2, 4), (3, 2), (3, 3), (4, 2), (2, 6), (5, 2)]))
    space = SidSpace((size,) * levels + draw(st.sampled_from([(), (2,), (3,)])))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    every = np.array(list(np.ndindex(*space.codes)), np.int32)
    taken = rng.permutation(every)[: int(draw(st.floats(0, 1)) * len(every))]
    items = int(draw(st.floats(0, 1)) * (len(every) - len(taken)))
    few = draw(st.integers(1, size))  # codes bunch in a corner of the space; few = 1: all identical
    codes = np.minimum(rng.integers(0, few, (items, space.levels)), np.array(space.codes) - 1).astype(np.int32)
    return codes, Table(levels, size), rng.integers(0, 9, (items, 1)), space, taken


@settings(deadline=None, max_examples=80)
@given(worlds(), st.sampled_from([1, 3, 1000]))
def test_it_is_what_its_definition_gives(
    world: tuple[np.ndarray, Table, np.ndarray, SidSpace, np.ndarray], at_once: int
) -> None:
    codes, quantizer, vectors, space, taken = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "_CHUNK", at_once)
        found = place(codes, quantizer, vectors, space, taken=taken)
    assert found.tolist() == one_by_one(codes, quantizer, vectors, space, taken).tolist()


def test_items_that_climb_share_their_calls_and_the_bar_knows_how_many() -> None:
    quantizer, space = Table(4, 4), SidSpace.uniform(4, 4)
    rng, bar = np.random.default_rng(0), Bar("placing", None, None)
    codes = rng.integers(0, 2, (space.capacity, 4)).astype(np.int32)
    sids = place(codes, quantizer, rng.integers(0, 99, (len(codes), 1)), space, taken=codes[:0], bar=bar)
    assert len(distinct_rows(sids)[0]) == len(sids)
    assert (sids[:, 0] != codes[:, 0]).any()  # some climbed to the top
    assert len(quantizer.asked) <= 1 + space.levels
    assert bar.done == bar.total == sum(quantizer.asked)


def test_above_the_last_level_only_those_are_asked_who_may_climb() -> None:
    # Prefix 0: three codes are free for five movers, so two climb. The first is safe even if those two came back;
    # prefix 1: three codes are free for one mover, who is safe whatever comes.
    codes = np.array([[0, 0]] * 6 + [[1, 1]] * 2, np.int32)
    quantizer = Table(2, 4)
    place(codes, quantizer, np.arange(8)[:, None], SidSpace.uniform(2, 4), taken=codes[:0])
    assert quantizer.asked == [8, 4, 6]  # who keeps a SID; who may climb; where all movers go


def test_rows_and_ranks() -> None:
    rows = np.array([[2, 0], [0, 9], [2, 0], [0, 1], [2, 0]])
    distinct, which = distinct_rows(rows)
    assert distinct.tolist() == [[0, 1], [0, 9], [2, 0]]
    assert which.tolist() == [2, 1, 2, 0, 2]
    assert ranks(which).tolist() == [0, 0, 1, 0, 2]
    assert distinct_rows(rows[:, :0])[1].tolist() == [0] * 5
    assert len(distinct_rows(rows[:0])[0]) == 0
