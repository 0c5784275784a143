"""What a model made of a prompt comes with the answer, and is what the modules themselves compute."""

from __future__ import annotations

import numpy as np
import torch

from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from tests.engine.models import make_model, sid_tokens
from tests.engine.test_trunk import SPACE, make

PROMPTS = ((1, 2, 3, 4, 5), (6, 7, 8), (9, 10, 11, 12, 13, 14, 15))
CPU = EngineConfig(device="cpu", dtype="float32", normalise="trie")


def flat() -> tuple[Engine, list[np.ndarray]]:
    space = SidSpace((4, 5))
    sids = np.stack(np.unravel_index(np.arange(0, 20, 2), space.codes), axis=1).astype(np.int32)
    model = make_model()
    with torch.no_grad():
        states = [
            model.get_decoder()(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1].numpy() for prompt in PROMPTS
        ]
    return Engine(model, Trie.build(space, sids), sid_tokens(space.codes), CPU), states


def test_a_flat_decoder_tells_its_last_state() -> None:
    engine, states = flat()
    answers = engine.generate([Request(tokens=prompt, beam=3, state=True) for prompt in PROMPTS])
    for answer, state in zip(answers, states, strict=True):
        assert answer.state is not None
        np.testing.assert_allclose(answer.state, state, rtol=1e-4, atol=1e-5)


def test_only_who_asks_is_told() -> None:
    engine, _ = flat()
    told, plain = engine.generate([Request(tokens=PROMPTS[0], state=True), Request(tokens=PROMPTS[0])])
    assert told.state is not None
    assert plain.state is None


def test_reading_scores_and_tells_the_state() -> None:
    engine, states = flat()
    requests = [Request(tokens=prompt) for prompt in PROMPTS]
    sids = [[(0, 0), (3, 4)], [], [(0, 1)]]  # the last one is no item's
    found = engine.read(requests, sids)
    for one, scores, state in zip(found, engine.score(requests, sids), states, strict=True):
        np.testing.assert_allclose(one.scores, scores, rtol=1e-5)
        np.testing.assert_allclose(one.state, state, rtol=1e-4, atol=1e-5)
    assert found[2].scores.tolist() == [-np.inf]


def test_a_trunk_tells_the_trunks_own_state() -> None:
    flat_sids = np.random.default_rng(0).choice(SPACE.capacity, size=70, replace=False)
    sids = np.stack(np.unravel_index(flat_sids, SPACE.codes), axis=1).astype(np.int32)
    model, prompt = make(sids)
    tokens = [prompt.encode(np.array(history)) for history in ([3, 7, 9], [1])]
    engine = Engine(model, Trie.build(SPACE, sids), prompt.sid_tokens, CPU)
    answers = engine.generate([Request(tokens=tuple(own), beam=2, state=True) for own in tokens])
    for answer, own in zip(answers, tokens, strict=True):
        with torch.no_grad():
            expected = model.hidden(torch.tensor([own]))[0, -1]
        assert answer.state is not None
        np.testing.assert_allclose(answer.state, expected.numpy(), rtol=1e-4, atol=1e-5)
