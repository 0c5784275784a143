"""The trie against a brute-force set of SIDs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.errors import DataError
from genrecall.index.trie import ROOT, Trie
from genrecall.sid.space import SidSpace


@st.composite
def catalogs(draw: st.DrawFn) -> tuple[SidSpace, np.ndarray]:
    codes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    row = st.tuples(*(st.integers(0, size - 1) for size in codes))
    rows = draw(st.lists(row, min_size=0, max_size=25))
    return SidSpace(codes), np.array(rows, dtype=np.int32).reshape(len(rows), len(codes))


@settings(deadline=None, max_examples=80)
@given(catalogs())
def test_children_walks_and_ranges_equal_brute_force(catalog):
    space, sids = catalog
    trie = Trie.build(space, sids)
    rows = [tuple(row) for row in sids.tolist()]
    assert trie.item_order.tolist() == sorted(range(len(rows)), key=lambda i: (rows[i], i))
    prefixes = {row[:depth] for row in rows for depth in range(space.levels + 1)} | {()}
    assert trie.num_nodes == len(prefixes)
    ordered = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
    for node, prefix in enumerate(ordered):
        assert trie.walk(prefix) == node
        codes, nodes = trie.children(node)
        expected = sorted({row[len(prefix)] for row in rows if row[: len(prefix)] == prefix and len(prefix) < len(row)})
        assert codes.tolist() == expected
        assert nodes.tolist() == [ordered.index((*prefix, code)) for code in expected]
        owned = [i for i in trie.item_order.tolist() if rows[i][: len(prefix)] == prefix]
        assert trie.items_at(node).tolist() == owned
        assert trie.num_sids[node] == len({rows[i] for i in owned})
        assert node in trie.nodes_at(len(prefix))
    every = np.array(list(product(*map(range, space.codes))), dtype=np.int32)
    paths = trie.paths(every)
    for sid, path in zip(every.tolist(), paths.tolist(), strict=True):
        assert trie.is_valid(sid) == (tuple(sid) in set(rows)) == (path[-1] in trie.leaves)
        walked = [trie.walk(sid[:depth]) for depth in range(space.levels + 1)]
        assert path == [-1 if node is None else node for node in walked]


@settings(deadline=None, max_examples=50)
@given(catalogs(), st.data())
def test_a_node_is_allowed_while_one_of_its_items_is(catalog, data):
    space, sids = catalog
    trie = Trie.build(space, sids)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(sids), max_size=len(sids))), dtype=bool)
    assert trie.allowed_nodes(mask).tolist() == [bool(mask[trie.items_at(n)].any()) for n in range(trie.num_nodes)]


@pytest.mark.parametrize("gone", [[], [7], [0, 399], range(24)])
def test_a_node_closes_when_its_last_few_items_go(gone):
    space = SidSpace(codes=(4, 8, 64))
    sids = np.sort(np.random.default_rng(0).integers(0, [4, 8, 64], size=(400, 3)), axis=0)
    trie = Trie.build(space, sids)
    mask = np.ones(400, dtype=bool)
    mask[list(gone)] = False  # sorted columns: the first items share SIDs, so that whole nodes go
    found = trie.allowed_nodes(mask)
    assert found.tolist() == [bool(mask[trie.items_at(n)].any()) for n in range(trie.num_nodes)]
    assert found.all() == (len(gone) < 24)


@settings(deadline=None, max_examples=30)
@given(catalogs())
def test_children_mask_marks_exactly_the_children(catalog):
    space, sids = catalog
    trie = Trie.build(space, sids)
    for level in range(space.levels):
        nodes = np.array(trie.nodes_at(level), dtype=np.int64)[::-1]
        mask = trie.children_mask(nodes, level)
        assert mask.shape == (len(nodes), space.codes[level])
        for node, row in zip(nodes.tolist(), mask, strict=True):
            assert np.flatnonzero(row).tolist() == trie.children(node)[0].tolist()


def test_spaces_beyond_one_integer_key_sort_the_same():
    space = SidSpace.uniform(6, 4096)
    sids = np.random.default_rng(0).integers(0, 3, size=(200, 6), dtype=np.int32)
    small = Trie.build(SidSpace.uniform(6, 3), sids)
    large = Trie.build(space, sids)
    assert large.item_order.tolist() == small.item_order.tolist()
    assert large.child_code.tolist() == small.child_code.tolist()


def test_an_empty_catalog_has_only_the_root():
    trie = Trie.build(SidSpace.uniform(3, 4), np.empty((0, 3), dtype=np.int32))
    assert trie.num_nodes == 1
    assert trie.walk(()) == ROOT
    assert len(trie.leaves) == 0
    assert not trie.is_valid((0, 0, 0))


@pytest.mark.parametrize("sids", [np.zeros((2, 3), dtype=np.int32), np.zeros((2, 2)), np.array([[0, 4]])])
def test_rows_that_are_no_sids_are_refused(sids):
    with pytest.raises(DataError):
        Trie.build(SidSpace.uniform(2, 4), sids)
