"""Batch-invariant mode: the same request has the same bits alone, among others, packed and padded otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.bench.shapes import SHAPES, random_model
from genrecall.engine.config import EngineConfig
from genrecall.engine.device import decoder
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.index.trie import Trie
from genrecall.kernels.rows import cut_rows
from genrecall.sid.space import SidSpace

SPACE = SidSpace((16, 16, 16))
TRIE = Trie.build(SPACE, np.random.default_rng(0).integers(0, 16, size=(300, 3)).astype(np.int32))
TOKENS = [SHAPES["small"].words + SPACE.offset(level) + np.arange(16) for level in range(3)]


@pytest.mark.parametrize(
    ("weights", "forced", "device"),
    [
        ("plain", "run", "cpu"),
        ("plain", "skip", "cpu"),
        ("int8", "run", "cpu"),
        pytest.param("plain", "run", "cuda", marks=pytest.mark.gpu),
        pytest.param("fp8", "run", "cuda", marks=pytest.mark.gpu),
    ],
)
def test_other_requests_do_not_change_a_bit(weights, forced, device):
    model = random_model(SHAPES["small"], SPACE.num_tokens, device=torch.device("cpu"), dtype=torch.float32, seed=0)
    config = EngineConfig(device=device, weights=weights, forced=forced, batch_invariant=True, max_rows=512)
    engine = Engine(model, TRIE, TOKENS, config)
    rng = np.random.default_rng(1)
    asked = Request(tokens=tuple(rng.integers(0, 1024, 37).tolist()), beam=20)
    alone = engine.generate([asked])[0]
    for count in (1, 3, 6):
        others = [
            Request(tokens=tuple(rng.integers(0, 1024, size).tolist()), beam=int(beam))
            for size, beam in zip(rng.integers(1, 90, count), rng.integers(1, 60, count), strict=True)
        ]
        found = engine.generate([*others[: count // 2], asked, *others[count // 2 :]])[count // 2]
        assert found == alone
    scores = engine.score([asked], [alone.sids])[0]
    assert scores.tolist() == pytest.approx(alone.scores, abs=1e-4)


@pytest.mark.parametrize("invariant", [True, False])
def test_tiles_of_attention_are_of_one_size_whatever_the_batch(monkeypatch, invariant):
    sizes = set()

    def cut(ranges, size, tiles):
        sizes.add(size)
        return cut_rows(ranges, size, tiles)

    monkeypatch.setattr(decoder, "cut_rows", cut)
    model = random_model(SHAPES["small"], SPACE.num_tokens, device=torch.device("cpu"), dtype=torch.float32, seed=0)
    engine = Engine(model, TRIE, TOKENS, EngineConfig(device="cpu", batch_invariant=invariant, max_rows=512))
    asked = Request(tokens=tuple(range(37)), beam=20)
    engine.generate([asked])
    engine.generate([asked] * 12)
    assert (len(sizes) == 1) == invariant
