"""What "auto" becomes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from genrecall.engine.config import EngineConfig, Parallel
from genrecall.engine.setup import _compact_from
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace

SPACE = SidSpace((4, 4, 4))
FULL = np.array(list(product(range(4), repeat=3)), np.int32)  # every prefix has four children
SPARSE = FULL[::5]


@pytest.mark.parametrize(
    ("sids", "kind", "trunk", "invariant", "rows"),
    [
        (SPARSE, "cuda", False, False, 1536),
        (SPARSE, "cuda", False, True, 0),
        (FULL, "cuda", False, False, None),
        (SPARSE, "cuda", True, False, None),
        (FULL, "cpu", True, False, 0),
    ],
)
def test_forced_levels_are_left_out_where_it_pays(
    sids: np.ndarray, kind: str, trunk: bool, invariant: bool, rows: int | None
) -> None:
    trie, device = Trie.build(SPACE, sids), torch.device(kind)
    assert _compact_from(EngineConfig(batch_invariant=invariant), trie, device, trunk) == rows
    two = EngineConfig(parallel=Parallel(ranks=2))
    assert kind == "cpu" or _compact_from(two, trie, device, trunk) is None
    assert _compact_from(EngineConfig(forced="skip"), trie, device, trunk) == 0
    assert _compact_from(EngineConfig(forced="run"), trie, device, trunk) is None
