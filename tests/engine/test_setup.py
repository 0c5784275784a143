"""What "auto" becomes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from genrecall.engine.config import EngineConfig
from genrecall.engine.setup import _skips
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace

SPACE = SidSpace((4, 4, 4))
FULL = np.array(list(product(range(4), repeat=3)), np.int32)  # every prefix has four children
SPARSE = FULL[::5]


@pytest.mark.parametrize(
    ("sids", "kind", "trunk", "skips"),
    [
        (SPARSE, "cuda", False, True),
        (FULL, "cuda", False, False),
        (SPARSE, "cuda", True, False),
        (FULL, "cpu", True, True),
    ],
)
def test_forced_levels_are_left_out_where_it_pays(sids: np.ndarray, kind: str, trunk: bool, skips: bool) -> None:
    trie, device = Trie.build(SPACE, sids), torch.device(kind)
    assert _skips(EngineConfig(), trie, device, trunk) == skips
    assert _skips(EngineConfig(forced="skip"), trie, device, trunk)
    assert not _skips(EngineConfig(forced="run"), trie, device, trunk)
