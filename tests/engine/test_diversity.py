"""At most n beams under one first code: as the reference says, beside others, with filters, samples, both softmaxes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from genrecall.engine import reference
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from tests.engine.agreement import assert_same
from tests.engine.models import make_model, sid_tokens

SPACE = SidSpace((5, 6, 5))
TRIE = Trie.build(SPACE, np.random.default_rng(0).integers(0, 5, size=(80, 3)).astype(np.int32))


@pytest.mark.parametrize("normalise", ["trie", "level"])
@pytest.mark.parametrize("forced", ["run", "skip"])
def test_caps_are_the_references(normalise, forced):
    config = EngineConfig(device="cpu", normalise=normalise, forced=forced)
    engine = Engine(make_model(), TRIE, sid_tokens(SPACE.codes), config)
    allowed = np.arange(TRIE.num_items) % 3 > 0
    requests = [
        Request(tokens=(1, 2, 3), beam=9, most_a_code=2),
        Request(tokens=(7, 2), beam=9),
        Request(tokens=(4, 4, 9, 1), beam=(4, 9, 12), most_a_code=3, allowed=allowed),
        Request(tokens=(5,), beam=30, most_a_code=1),
        Request(tokens=(6, 8), beam=40, most_a_code=30),
    ]
    for request, found in zip(requests, engine.generate(requests), strict=True):
        expected = reference.generate(make_model(), TRIE, sid_tokens(SPACE.codes), request, normalise=normalise)
        assert_same(found, expected)
        if request.most_a_code:
            assert max(Counter(sid[0] for sid in found.sids).values()) <= request.most_a_code
    assert Counter(sid[0] for sid in engine.generate(requests)[1].sids).most_common(1)[0][1] > 2, (
        "the cap does something"
    )


def test_a_capped_sample_is_still_a_sample():
    engine = Engine(make_model(), TRIE, sid_tokens(SPACE.codes), EngineConfig(device="cpu"))
    asked = [Request(tokens=(1, 2, 3), beam=6, most_a_code=2, seed=seed) for seed in range(8)]
    answers = engine.generate(asked)
    assert len({tuple(answer.sids) for answer in answers}) > 1
    for request, answer in zip(asked, answers, strict=True):
        assert max(Counter(sid[0] for sid in answer.sids).values()) <= 2
        assert answer.scores == pytest.approx(engine.score([request], [answer.sids])[0].tolist(), abs=1e-4)


def test_a_cap_of_none_is_refused():
    engine = Engine(make_model(), TRIE, sid_tokens(SPACE.codes), EngineConfig(device="cpu"))
    with pytest.raises(ConfigError, match="limits"):
        engine.generate([Request(tokens=(1,), most_a_code=0)])
