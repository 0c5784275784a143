"""Node masks against the trie's own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.index.trie import Trie
from genrecall.kernels.node_mask import LeafItems, node_mask
from genrecall.sid.space import SidSpace


def propagated(trie: Trie, masks: np.ndarray, device: str, spare: int = 3) -> np.ndarray:
    """Rows of nodes of item masks (M, I), written to every second row, the last one first."""
    begin = np.append(trie.item_begin[trie.leaves.start :], trie.num_items)
    order, begins, edges = (
        torch.from_numpy(array.astype(np.int32)).to(device) for array in (trie.item_order, begin, trie.child_begin)
    )
    bits = torch.from_numpy(np.packbits(masks, axis=1, bitorder="little")).to(device)
    row = torch.arange(2 * len(masks) - 1, 0, -2, dtype=torch.int32, device=device)
    out = torch.ones(2 * len(masks), trie.num_nodes + spare, dtype=torch.bool, device=device)
    out[1::2, : trie.num_nodes] = torch.rand(len(masks), trie.num_nodes, device=device) < 0.5  # poisoned
    node_mask(bits, row, LeafItems(order=order, begin=begins), edges, trie.level_begin.tolist(), out)
    assert out[:, trie.num_nodes :].all(), "nothing is written beyond the trie"
    assert out[0::2].all(), "nothing is written to other rows"
    return out[row.long(), : trie.num_nodes].cpu().numpy()


def expected(trie: Trie, masks: np.ndarray) -> np.ndarray:
    return np.stack([trie.allowed_nodes(mask) for mask in masks])


@pytest.mark.parametrize("shares", [(0.0, 0.03), (0.6,), (1.0, 0.5, 0.9)])
@pytest.mark.parametrize(("items", "levels", "codes"), [(50, 3, 4), (1, 2, 3), (3000, 2, 64), (3001, 2, 8)])
def test_equals_the_trie(device, items, levels, codes, shares):
    rng = np.random.default_rng(items)
    sids = rng.integers(0, codes, (items, levels))
    trie = Trie.build(SidSpace.uniform(levels, codes), sids)
    masks = rng.random((len(shares), items)) < np.array(shares)[:, None]
    np.testing.assert_array_equal(propagated(trie, masks, device), expected(trie, masks))


@pytest.mark.gpu
def test_a_million_items():
    rng = np.random.default_rng(0)
    sids = rng.integers(0, 256, (1_000_000, 4))
    trie = Trie.build(SidSpace.uniform(4, 256), sids)
    masks = rng.random((3, len(sids))) < np.array([[0.001], [0.9], [0.5]])
    np.testing.assert_array_equal(propagated(trie, masks, "cuda"), expected(trie, masks))
