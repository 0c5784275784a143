"""Item masks from stock and exclusion lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.errors import CapacityError
from genrecall.index import layout
from genrecall.index.availability import allowed_items
from genrecall.index.layout import TrieTensors
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace


def test_masks_join_stock_and_exclusions():
    assert allowed_items(3) is None
    assert allowed_items(3, np.empty(0, dtype=np.int32)) is None
    stock = np.array([True, False, True])
    assert allowed_items(3, available=stock) is stock
    mask = allowed_items(3, np.array([2, 2]), available=stock)
    assert mask is not None
    assert mask.tolist() == [True, False, False]
    assert stock.tolist() == [True, False, True]
    with pytest.raises(AssertionError):
        allowed_items(3, np.array([3]))


def test_tensors_hold_the_same_trie():
    trie = Trie.build(SidSpace((3, 3)), np.array([[0, 1], [2, 2], [2, 0]]))
    tensors = TrieTensors.of(trie, torch.device("cpu"))
    assert tensors.child_begin.tolist() == trie.child_begin.tolist()[: trie.leaves.start + 1]
    assert tensors.child_code.tolist() == trie.child_code.tolist()
    assert tensors.branching.tolist() == [True, False, True]


def test_what_branches_has_more_than_one_sid():
    sids = np.random.default_rng(0).integers(0, 4, (60, 4))
    trie = Trie.build(SidSpace((4, 5, 6, 7)), sids)
    branching = TrieTensors.of(trie, torch.device("cpu")).branching
    assert branching.tolist() == (trie.num_sids > 1).tolist()[: trie.leaves.start]
    assert 0 < branching.sum() < len(branching)


@pytest.mark.parametrize(("codes", "width"), [(256, 1), (257, 2), (40_000, 4)])
def test_codes_take_the_bytes_that_they_need(codes: int, width: int):
    space = SidSpace.uniform(2, codes)
    sids = np.array([[0, codes - 1], [codes - 1, 0], [codes - 1, codes - 2]])
    trie = Trie.build(space, sids)
    tensors = TrieTensors.of(trie, torch.device("cpu"))
    assert tensors.child_code.tolist() == trie.child_code.tolist()
    inner = trie.leaves.start
    assert tensors.nbytes == 4 * (inner + 1) + width * (trie.num_nodes - 1) + inner


def test_a_trie_that_31_bits_cannot_number_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layout, "_MOST_EDGES", 3)
    trie = Trie.build(SidSpace((3, 3)), np.array([[0, 1], [2, 2]]))
    with pytest.raises(CapacityError, match="too large for the engine"):
        TrieTensors.of(trie, torch.device("cpu"))
