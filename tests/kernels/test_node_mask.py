"""Node masks against the trie's own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.index.trie import Trie
from genrecall.kernels.node_mask import node_mask
from genrecall.sid.space import SidSpace


def propagated(trie: Trie, sids: np.ndarray, items: np.ndarray, device: str, spare: int = 3) -> np.ndarray:
    leaf = torch.from_numpy(trie.paths(sids)[:, -1].astype(np.int32)).to(device)
    out = torch.ones(trie.num_nodes + spare, dtype=torch.bool, device=device)  # poisoned: everything must be written
    begin = torch.from_numpy(trie.child_begin.astype(np.int32)).to(device)
    node_mask(torch.from_numpy(items).to(device), leaf, begin, trie.level_begin.tolist(), out)
    assert out[trie.num_nodes :].all(), "nothing is written beyond the trie"
    return out[: trie.num_nodes].cpu().numpy()


@pytest.mark.parametrize("share", [0.0, 0.03, 0.6, 1.0])
@pytest.mark.parametrize(("items", "levels", "codes"), [(50, 3, 4), (1, 2, 3), (3000, 2, 64)])
def test_equals_the_trie(device, items, levels, codes, share):
    rng = np.random.default_rng(items)
    sids = rng.integers(0, codes, (items, levels))
    trie = Trie.build(SidSpace.uniform(levels, codes), sids)
    mask = rng.random(items) < share
    np.testing.assert_array_equal(propagated(trie, sids, mask, device), trie.allowed_nodes(mask))


@pytest.mark.gpu
def test_a_million_items():
    rng = np.random.default_rng(0)
    sids = rng.integers(0, 256, (1_000_000, 4))
    trie = Trie.build(SidSpace.uniform(4, 256), sids)
    for share in (0.001, 0.9):
        mask = rng.random(len(sids)) < share
        np.testing.assert_array_equal(propagated(trie, sids, mask, "cuda"), trie.allowed_nodes(mask))
