"""Item masks from stock and exclusion lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
    assert tensors.child_begin.tolist() == trie.child_begin.tolist()
    assert tensors.child_code.tolist() == trie.child_code.tolist()
    assert tensors.num_sids.tolist() == [3, 1, 2, 1, 1, 1]
