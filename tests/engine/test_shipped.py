"""The engine as shipped against the reference: packing, kept prefixes, filters, swaps, mixed widths, cancellation.

The same scenario runs on the CPU and, with CUDA graphs, on a GPU; every round is asked five times there, so that it is
computed plainly, captured and replayed.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from genrecall.engine import reference, setup
from genrecall.engine.config import Budgets, EngineConfig
from genrecall.engine.device.padding import Ahead
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Answer, Refused, Request
from genrecall.engine.host.step import Sizes
from genrecall.errors import CapacityError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from tests.engine.agreement import assert_same
from tests.engine.models import make_model, sid_tokens

SPACE = SidSpace((6, 7, 5))
BEAMS = (1, 4, 20, (2, 9, 4), 60, 7)


def catalog(seed: int, items: int = 60) -> Trie:
    return Trie.build(SPACE, np.random.default_rng(seed).integers(0, 5, size=(items, 3)).astype(np.int32))


def histories(seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 20, int(size)).tolist() for size in (5, 17, 33, 1, 40, 20)]


def ask(tokens: list[list[int]], trie: Trie, *, users: bool = True, filters: bool = True) -> list[Request]:
    shared = np.random.default_rng(9).random(trie.num_items) < 0.7
    shared.flags.writeable = False
    own = np.arange(trie.num_items) % 3 > 0
    masks = [None, shared, own, shared, None, shared] if filters else [None] * 6
    return [
        Request(tokens=tuple(prompt), beam=beam, allowed=mask, user=f"user {place}" if users else None)
        for place, (prompt, beam, mask) in enumerate(zip(tokens, BEAMS, masks, strict=True))
    ]


@pytest.fixture(
    params=[
        pytest.param(("cpu", "auto"), id="cpu"),
        pytest.param(("cpu", "run"), id="cpu-static"),
        pytest.param(("cuda", "run"), id="cuda-graphs", marks=pytest.mark.gpu),
        pytest.param(("cuda", "skip"), id="cuda-compact", marks=pytest.mark.gpu),
        pytest.param(("cpu", "mixed"), id="cpu-mixed"),
        pytest.param(("cuda", "mixed"), id="cuda-mixed", marks=pytest.mark.gpu),
    ]
)
def setting(request, monkeypatch) -> tuple[EngineConfig, float, int]:
    device, forced = request.param
    if forced == "mixed":  # the larger batches leave forced levels out, and whoever is alone
        forced = "auto"
        monkeypatch.setattr(setup, "_compact_from", lambda *_: 60)
    budgets = Budgets(page_tokens=8, requests=5, filters=2, kv_tokens=600, catalog_headroom=3.0)
    config = EngineConfig(device=device, dtype="float32", forced=forced, budgets=budgets, max_rows=70)
    return config, (1e-4 if device == "cpu" else 1e-3), (1 if device == "cpu" else 5)


def check(found: Answer, request: Request, trie: Trie, near: float, normalise: str = "trie") -> None:
    expected = reference.generate(make_model(), trie, sid_tokens(SPACE.codes), request, normalise=normalise)
    assert_same(found, expected, near)
    assert all(trie.is_valid(sid) for sid in found.sids)


def test_kept_prefixes_filters_and_mixed_widths(setting):
    config, near, rounds = setting
    trie = catalog(0)
    engine = Engine(make_model(), trie, sid_tokens(SPACE.codes), config)
    tokens = histories(1)
    cache = engine.loop.scheduler.cache
    for _ in range(rounds):
        for request, answer in zip(ask(tokens, trie), engine.generate(ask(tokens, trie)), strict=True):
            check(answer, request, trie, near)
    hits = cache.hit_tokens
    longer = [[*prompt, 3, 1, 4] for prompt in tokens]
    for request, answer in zip(ask(longer, trie), engine.generate(ask(longer, trie)), strict=True):
        check(answer, request, trie, near)
    assert cache.hit_tokens - hits == sum(len(prompt) // 8 * 8 for prompt in tokens)
    # The same prompts of nobody are read anew and give the same.
    for request, answer in zip(ask(longer, trie), engine.generate(ask(longer, trie, users=False)), strict=True):
        check(answer, request, trie, near)
    assert (engine.loop.runner.graphs.replayed > 0) == (config.device == "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("forced", ["run", "skip"])
def test_the_gpu_kernels_under_the_engine(interpreted, forced, padded):
    """The kernels that a GPU runs, interpreted: no tensor of the engine is laid out otherwise than they read it; also
    in batches of more places, rows and tokens than they need.
    """
    trie = catalog(0)
    budgets = Budgets(page_tokens=8, requests=8, filters=1, kv_tokens=200)
    config = EngineConfig(device="cpu", forced=forced, budgets=budgets)
    engine = Engine(make_model(), trie, sid_tokens(SPACE.codes), config)
    allowed = np.arange(trie.num_items) % 3 > 0
    prompt = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3)
    for tokens in (prompt, (*prompt, 5, 8)):  # the second finds a page of the first
        requests = [Request(tokens=tokens, beam=(2, 7, 5), user="a"), Request(tokens=(2, 7), beam=4, allowed=allowed)]
        more = Ahead(Sizes(requests=8, pages=256, tokens=40, rows=(24, 40, 32), widest=64), 2, running=32)
        with engine.loop.runner.padding.held(more) if padded else nullcontext():
            answers = engine.generate(requests)
        for request, answer in zip(requests, answers, strict=True):
            check(answer, request, trie, 1e-4)
    assert engine.loop.scheduler.cache.hit_tokens == 8
    for scores, answer in zip(engine.score(requests, [a.sids for a in answers]), answers, strict=True):
        assert scores.tolist() == pytest.approx(answer.scores, abs=1e-4)


def test_scores_over_kept_prefixes(setting):
    config, near, rounds = setting
    trie = catalog(0)
    engine = Engine(make_model(), trie, sid_tokens(SPACE.codes), config)
    requests = ask(histories(1), trie, filters=False)
    answers = engine.generate(requests)
    for _ in range(rounds):
        for answer, scores in zip(answers, engine.score(requests, [answer.sids for answer in answers]), strict=True):
            assert scores.tolist() == pytest.approx(answer.scores, abs=near)
    # Other candidates of the same sizes find the same graph.
    others = [[*answer.sids[1:], answer.sids[0]] for answer in answers]
    for answer, scores in zip(answers, engine.score(requests, others), strict=True):
        assert scores.tolist() == pytest.approx([*answer.scores[1:], answer.scores[0]], abs=near)


def test_prompts_in_fp8_answer_nearly_alike():
    """Half the bytes of a token in bf16, a quarter in float32; what is lost is the rounding of fp8."""
    trie, requests = catalog(0), ask(histories(1), catalog(0))
    plain, narrow = (
        Engine(make_model(), trie, sid_tokens(SPACE.codes), EngineConfig(device="cpu", prompt_kv=kept))
        for kept in ("plain", "fp8")
    )
    assert narrow.loop.runner.decoder.memory.nbytes * 4 == plain.loop.runner.decoder.memory.nbytes
    asked = [answer.sids for answer in plain.generate(requests)]
    exact, near = (np.concatenate(engine.score(requests, asked)) for engine in (plain, narrow))
    assert 0 < np.abs(near - exact).mean() < 0.05 * np.abs(exact).mean()
    for request in requests:
        narrow.purge(request.user)
    memory = narrow.loop.runner.decoder.memory
    assert all(not tensor.view(torch.uint8).any() for tensor in (*memory.keys, *memory.values))


def test_a_swap_leaves_those_in_flight_with_their_catalog(setting):
    config, near, rounds = setting
    tries = [catalog(seed, items) for seed, items in ((0, 60), (5, 90), (6, 30))]
    engine = Engine(make_model(), tries[0], sid_tokens(SPACE.codes), config)
    outcomes: list[tuple[Request, Trie, list]] = []
    for number in range(3 * rounds):
        trie = tries[number % 3]
        engine.swap(trie)
        for request in ask(histories(number % 3), trie, users=number % 2 == 0):
            told: list = []
            outcomes.append((request, trie, told))
            engine.submit(request, told.append)
        engine.advance()
    while not engine.loop.idle:
        engine.advance()
    for request, trie, told in outcomes:
        assert len(told) == 1
        check(told[0], request, trie, near)
    with pytest.raises(CapacityError, match="outgrown"):
        engine.swap(catalog(1, 4000))


def test_cancelled_and_late_requests_touch_nobody(setting):
    config, near, _ = setting
    trie = catalog(0)
    engine = Engine(make_model(), trie, sid_tokens(SPACE.codes), config)
    requests = ask(histories(2), trie)
    outcomes: list[list] = [[] for _ in requests]
    late: list = []
    numbers = [engine.submit(request, told.append) for request, told in zip(requests, outcomes, strict=True)]
    engine.submit(Request(tokens=(1, 2), timeout_s=1e-9), late.append)
    assert engine.cancel(numbers[5])  # waits
    with engine.lock, torch.inference_mode():
        engine.loop._launch()
    assert engine.cancel(numbers[1])  # runs
    while not engine.loop.idle:
        engine.advance()
    assert not engine.cancel(numbers[1])
    assert outcomes[5] == [Refused("cancelled")]
    assert outcomes[1] == [Refused("cancelled")]
    assert late == [Refused("late")]
    for place in (0, 2, 3, 4):
        check(outcomes[place][0], requests[place], trie, near)


def test_a_purged_user_leaves_no_bytes(setting):
    config, near, _ = setting
    trie = catalog(0)
    engine = Engine(make_model(), trie, sid_tokens(SPACE.codes), config)
    requests = ask(histories(3), trie)
    engine.generate(requests)
    for place in range(len(requests)):
        engine.purge(f"user {place}")
    memory = engine.loop.runner.decoder.memory
    assert all(not tensor.any() for tensor in (*memory.keys, *memory.values))
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        check(answer, request, trie, near)


def errors(scores: list[np.ndarray], exact: list[Answer]) -> float:
    return float(np.mean(np.abs(np.concatenate(scores) - np.concatenate([answer.scores for answer in exact]))))


@pytest.mark.gpu
def test_rounding_errors_are_those_of_the_number_formats():
    """bf16: at most twice that of transformers in bf16 on the same device. fp8, int8: within stated factors."""
    trie, tokens_of = catalog(0), sid_tokens(SPACE.codes)
    requests = [
        Request(tokens=request.tokens, beam=8) for request in ask(histories(1), trie, users=False, filters=False)
    ]
    exact = Engine(make_model(), trie, tokens_of, EngineConfig(device="cpu")).generate(requests)
    asked = [answer.sids for answer in exact]
    theirs_model = copy.deepcopy(make_model()).to("cuda", torch.bfloat16)
    theirs = [
        np.array([reference.score(theirs_model, trie, tokens_of, request.tokens, sid) for sid in answer.sids])
        for request, answer in zip(requests, exact, strict=True)
    ]
    base = errors(theirs, exact)
    for weights, factor in (("plain", 2.0), ("int8", 8.0), ("fp8", 30.0)):
        engine = Engine(make_model(), trie, tokens_of, EngineConfig(device="cuda", weights=weights))
        assert engine.dtype == (torch.bfloat16)
        ours = errors(engine.score(requests, asked), exact)
        print(f"{weights}: {ours:.4f}, transformers in bf16: {base:.4f}")
        assert ours <= factor * base


@pytest.mark.parametrize("kept", ["plain", "fp8"])
def test_prompts_return_from_host_memory(setting, kept):
    """Pages for two users at a time: what comes back from the host answers as what never left, until it is purged."""
    config, near, rounds = setting
    if kept == "fp8" and config.device == "cuda":
        near = 0.5  # keys in fp8 against fp32 ones
    budgets = replace(config.budgets, kv_tokens=96, host_kv_tokens=400)
    config = replace(config, budgets=budgets, prompt_kv=kept, max_prompt_tokens=64)
    trie, tokens_of = catalog(0), sid_tokens(SPACE.codes)
    engine = Engine(make_model(), trie, tokens_of, config)
    fresh = Engine(make_model(), trie, tokens_of, config)
    cache = engine.loop.scheduler.cache
    for _ in range(rounds + 1):
        for user, prompt in enumerate(histories(1)):
            request = Request(tokens=(*prompt[:40], 3), beam=9, user=f"user {user}")
            answer = engine.generate([request])[0]
            expected = fresh.generate([replace(request, user=None)])[0]
            assert_same(answer, expected, near)
    assert cache.onboarded_tokens > 0
    assert engine.loop.runner.tier.held.any()
    for user in range(6):
        engine.purge(f"user {user}")
    assert not engine.loop.runner.tier.held.any()
    memory = engine.loop.runner.decoder.memory
    assert all(not tensor.view(torch.uint8).any() for tensor in (*memory.keys, *memory.values))


def test_a_purge_leaves_nothing_in_scratch_memory_either(setting):
    """Tokens that were sent, hidden states, keys and values of beams; also of a batch that runs while it comes."""
    config, _, _ = setting
    engine = Engine(make_model(), catalog(0), sid_tokens(SPACE.codes), config)
    engine.purge("nobody has asked yet")
    runner = engine.loop.runner
    told: list = []
    for request in ask(histories(3), catalog(0)):
        engine.submit(request, told.append)
    with engine.lock, torch.inference_mode():
        engine.loop._launch()
    engine.purge("user 2")
    assert runner._batches.flat.any(), "the batch is not disturbed"
    while not engine.loop.idle:
        engine.advance()
    engine.purge("user 2")
    held = (runner._batches.flat, runner._hidden, *runner.decoder.suffix.keys, *runner.decoder.suffix.values)
    assert not any(tensor.any() for tensor in held)
    assert all(isinstance(outcome, Answer) for outcome in told)


def test_a_purge_between_levels_hurts_nobody_else(setting):
    config, near, rounds = setting
    trie = catalog(0)
    engine = Engine(make_model(), trie, sid_tokens(SPACE.codes), config)
    purged: list[str] = []

    def purge() -> None:
        purged.append("user 1")
        engine.purge("user 1")

    tokens = histories(2)
    for _ in range(rounds):
        engine.loop.meanwhile = purge
        for request, answer in zip(ask(tokens, trie), engine.generate(ask(tokens, trie)), strict=True):
            check(answer, request, trie, near)
    assert purged or config.forced == "run"  # levels of one graph have nothing between them
    assert not engine.loop._unclean, "scratch memory is wiped once the batch has ended"
