"""The engine against a plain loop over the trunk's own modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.index.trie import Trie
from genrecall.model.trunk import ItemTrunk, TrunkConfig
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.sid.space import SidSpace

SPACE = SidSpace((5, 6, 4))


@pytest.fixture(scope="module")
def sids() -> np.ndarray:
    rng = np.random.default_rng(0)
    flat = rng.choice(SPACE.capacity, size=70, replace=False)
    return np.stack(np.unravel_index(flat, SPACE.codes), axis=1).astype(np.int32)


def make(sids: np.ndarray, *, sessions: bool = True) -> tuple[ItemTrunk, ItemPrompt]:
    prompt = ItemPrompt.learn(len(sids), SPACE, [{"country": "UK"}, {"country": "FR"}], window=6, sessions=sessions)
    config = TrunkConfig(width=32, layers=2, depth_layers=2, heads=2, window=6)
    model = ItemTrunk(
        config, SPACE, sids, prefix_rows=prompt.prefix_rows, prefix_length=len(prompt.head()), sessions=sessions
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # opinions: freshly made logits are nearly equal
    return model.eval(), prompt


@torch.no_grad()
def plainly(model: ItemTrunk, trie: Trie, tokens: tuple[int, ...], normalise: str) -> dict[tuple[int, ...], float]:
    """Scores of all SIDs."""
    hidden = model.hidden(torch.tensor([tokens]))[:, -1]
    scores = {}
    for leaf in range(len(trie.leaves)):
        sid = model.code_rows[trie.items_at(trie.leaves[leaf])[0]] - model.offsets
        states, total = model.states(hidden, sid[None, :-1]), 0.0
        for level in range(SPACE.levels):
            codes = trie.children(trie.walk(sid[:level].tolist()))[0]
            logits = model.logits(states[:, level], level)[0].double()
            among = logits[codes.tolist()] if normalise == "trie" else logits
            total += float(logits[sid[level]] - torch.logsumexp(among, 0))
        scores[tuple(sid.tolist())] = total
    return scores


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("forced", ["run", "skip"])
@pytest.mark.parametrize("normalise", ["trie", "level"])
def test_engine_writes_what_the_modules_say(sids: np.ndarray, normalise: str, forced: str, device: str) -> None:
    model, prompt = make(sids)
    trie = Trie.build(SPACE, sids)
    engine = Engine(
        model, trie, prompt.sid_tokens, EngineConfig(normalise=normalise, device=device, forced=forced, dtype="float32")
    )
    histories = [np.array([3]), np.arange(9), np.empty(0, int)]
    times = [np.array([0]), np.array([0, 0, 1, 1, 2, 3, 3, 4, 4]), np.empty(0, int)]
    profiles = [{"country": "UK"}, {}, {"country": "Mars"}]
    requests = [
        Request(tokens=tuple(prompt.encode(h, p, t)), beam=200)
        for h, p, t in zip(histories, profiles, times, strict=True)
    ]
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        right = plainly(model, trie, request.tokens, normalise)
        assert len(answer.sids) == len(right)
        np.testing.assert_allclose(answer.scores, [right[sid] for sid in answer.sids], atol=2e-4)
        assert answer.scores == sorted(answer.scores, reverse=True)
    (scored,) = engine.score(requests[1:2], [list(plainly(model, trie, requests[1].tokens, normalise))])
    np.testing.assert_allclose(scored, list(plainly(model, trie, requests[1].tokens, normalise).values()), atol=2e-4)


def test_a_new_session_changes_the_answer(sids: np.ndarray) -> None:
    model, prompt = make(sids)
    trie = Trie.build(SPACE, sids)
    engine = Engine(model, trie, prompt.sid_tokens, EngineConfig(device="cpu"))
    one, two = ([1, 1, 1], [1, 1, 2])
    requests = [Request(tokens=tuple(prompt.encode(np.array([1, 2, 3]), {}, np.array(t)))) for t in (one, two)]
    first, second = engine.generate(requests)
    assert first.scores != second.scores


def test_saved_trunk_is_the_same_and_takes_new_items(sids: np.ndarray, tmp_path) -> None:
    model, prompt = make(sids, sessions=False)
    model.save(tmp_path)
    prompt.save(tmp_path)
    again = ItemTrunk.load(tmp_path, sids)
    tokens = torch.tensor([prompt.encode(np.array([1, 2]), {"country": "FR"})])
    with torch.no_grad():
        torch.testing.assert_close(again.hidden(tokens), model.hidden(tokens))
        more = ItemTrunk.load(tmp_path, np.concatenate([sids, sids[:2]]))
        longer = ItemPrompt.load(tmp_path, len(sids) + 2).encode(np.array([1, 2]), {"country": "FR"})
        torch.testing.assert_close(more.hidden(torch.tensor([longer])), model.hidden(tokens))
    assert prompt == ItemPrompt.load(tmp_path, len(sids))
