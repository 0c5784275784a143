"""Catalog buffers: node masks made on the device, rows shared between requests, several catalogs after each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.engine.device.catalog import DeviceCatalog
from genrecall.errors import CapacityError
from genrecall.index.trie import Trie
from genrecall.kernels.node_mask import node_mask
from genrecall.sid.space import SidSpace

SPACE = SidSpace((4, 5, 3))


def make(seed: int, items: int) -> Trie:
    return Trie.build(SPACE, np.random.default_rng(seed).integers(0, 3, (items, 3)).astype(np.int32))


def test_masks_of_the_device_are_the_tries_after_every_swap():
    catalog = DeviceCatalog(make(0, 50), headroom=3.0, filters=2, device=torch.device("cpu"))
    for seed, items in ((1, 20), (2, 80), (3, 1)):
        trie = make(seed, items)
        catalog.prepare(trie)
        catalog.load(trie)
        mask = np.random.default_rng(seed).random(items) < 0.5
        out = torch.ones(2, catalog.most_nodes, dtype=torch.bool)
        row = torch.tensor([1], dtype=torch.int32)
        node_mask(catalog.pack([mask]), row, catalog.items, catalog.begin, catalog._level_begin, out)
        assert np.array_equal(out[1, : trie.num_nodes].numpy(), trie.allowed_nodes(mask))
        assert all(catalog.children(level).most <= size for level, size in enumerate(SPACE.codes))


def test_requests_share_the_row_of_one_mask_and_constant_ones_stay():
    trie = make(0, 50)
    catalog = DeviceCatalog(trie, headroom=1.0, filters=2, device=torch.device("cpu"))
    constant, loose = np.arange(50) % 2 > 0, np.arange(50) % 3 > 0
    constant.flags.writeable = False
    first = catalog.filter([constant, None, loose, constant])
    assert first[1] == -1
    assert first[0] == first[3] != first[2]
    written = catalog._allowed.clone()
    assert catalog.filter([constant]) == [first[0]]
    assert torch.equal(catalog._allowed, written)
    loose[:] = False  # whoever changes a mask between two batches is answered by what it says now
    row = catalog.filter([constant, loose])[1]
    assert not catalog._allowed[row, : trie.num_nodes].any()


def test_what_does_not_fit_is_refused():
    catalog = DeviceCatalog(make(0, 20), headroom=1.1, filters=1, device=torch.device("cpu"))
    with pytest.raises(CapacityError, match="outgrown"):
        catalog.require(make(0, 60))
    other = Trie.build(SidSpace((4, 5, 4)), np.zeros((1, 3), dtype=np.int32))
    with pytest.raises(CapacityError, match="another SID space"):
        catalog.require(other)
