"""Samples without replacement: distributed as stated, the same for the same seed, apart from searches beside them."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from tests.engine.models import make_model, sid_tokens

SPACE = SidSpace((3, 3, 2))
SIDS = np.array([[0, 0, 0], [0, 0, 1], [0, 2, 0], [1, 1, 1], [2, 0, 0], [2, 1, 0], [2, 1, 1]], dtype=np.int32)
PROMPT = (3, 1, 4)
DRAWS = 1500


@pytest.fixture(scope="module")
def engine() -> Engine:
    config = EngineConfig(device="cpu", forced="skip")
    return Engine(make_model(), Trie.build(SPACE, SIDS), sid_tokens(SPACE.codes), config)


@pytest.fixture(scope="module")
def probability(engine: Engine) -> dict[tuple[int, ...], float]:
    everything = engine.generate([Request(tokens=PROMPT, beam=9)])[0]
    return dict(zip(everything.sids, np.exp(everything.scores), strict=True))


def draws(engine: Engine, beam: int) -> list[tuple]:
    asked = [Request(tokens=PROMPT, beam=beam, seed=seed) for seed in range(DRAWS)]
    return [tuple(answer.sids) for answer in engine.generate(asked)]


def assert_frequencies(found: Counter, expected: dict) -> None:
    """Every frequency within five standard deviations."""
    assert sum(expected.values()) == pytest.approx(1.0, abs=1e-3)
    for sid, share in expected.items():
        spread = (share * (1 - share) / DRAWS) ** 0.5
        assert abs(found[sid] / DRAWS - share) < 5 * spread + 1e-4, sid


def test_one_draw_has_the_models_distribution(engine, probability):
    assert_frequencies(Counter(sids[0] for sids in draws(engine, 1)), probability)


def test_pairs_are_drawn_without_replacement(engine, probability):
    """p{a, b} = p_a p_b / (1 - p_a) + p_b p_a / (1 - p_b)."""
    expected: dict = Counter()
    for first, second in permutations(probability, 2):
        p, q = probability[first], probability[second]
        expected[frozenset((first, second))] += p * q / (1 - p)
    assert_frequencies(Counter(map(frozenset, draws(engine, 2))), dict(expected))


def test_a_sample_does_not_depend_on_its_company(engine):
    seeded = Request(tokens=PROMPT, beam=3, seed=7)
    plain, others = Request(tokens=PROMPT, beam=3), [Request(tokens=(2, 7), beam=5, seed=seed) for seed in range(5)]
    alone, search = engine.generate([seeded])[0], engine.generate([plain])[0]
    static = Engine(make_model(), engine.trie, sid_tokens(SPACE.codes), EngineConfig(device="cpu", forced="run"))
    for one in (engine, static):
        answers = one.generate([*others, plain, seeded])
        assert answers[-1].sids == alone.sids
        assert answers[-1].scores == pytest.approx(alone.scores, abs=1e-5)
        assert answers[-2].sids == search.sids
        assert answers[-2].scores == pytest.approx(search.scores, abs=1e-5)
    everything = engine.generate([Request(tokens=PROMPT, beam=9)])[0]
    score_of = dict(zip(everything.sids, everything.scores, strict=True))
    assert alone.scores == pytest.approx([score_of[sid] for sid in alone.sids], abs=1e-5)
    assert alone.scores == sorted(alone.scores, reverse=True)


def test_filters_hold_and_everything_can_be_drawn(engine):
    allowed = np.arange(len(SIDS)) % 2 == 0
    for seed in range(20):
        answer = engine.generate([Request(tokens=PROMPT, beam=9, seed=seed, allowed=allowed)])[0]
        assert sorted(answer.sids) == sorted(map(tuple, SIDS[allowed].tolist()))


def test_sampling_needs_probabilities():
    level = EngineConfig(device="cpu", normalise="level")
    engine = Engine(make_model(), Trie.build(SPACE, SIDS), sid_tokens(SPACE.codes), level)
    with pytest.raises(ConfigError, match="cannot be sampled"):
        engine.generate([Request(tokens=PROMPT, seed=1)])
    with pytest.raises(ConfigError, match="seed"):
        engine.generate([Request(tokens=PROMPT, seed=-1)])
