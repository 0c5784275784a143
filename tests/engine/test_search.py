"""The engine against exhaustive scoring and against the plain reference."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.engine import reference
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Answer, Request
from genrecall.errors import DataError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from tests.engine.agreement import NEAR, assert_same
from tests.engine.models import make_model, sid_tokens

NORMALISE = ("trie", "level")


def make_engine(space: SidSpace, sids: np.ndarray, normalise: str = "trie", **settings) -> Engine:
    config = EngineConfig(normalise=normalise, device="cpu", **settings)
    return Engine(make_model(), Trie.build(space, sids), sid_tokens(space.codes), config)


def reference_answer(engine: Engine, request: Request) -> Answer:
    tokens = sid_tokens(engine.trie.space.codes)
    return reference.generate(make_model(), engine.trie, tokens, request, normalise=engine.config.normalise)


def written(tokens: tuple[int, ...], prefix: tuple[int, ...], codes: tuple[int, ...]) -> list[int]:
    return [*tokens, *(int(ids[code]) for ids, code in zip(sid_tokens(codes), prefix, strict=False))]


@torch.no_grad()
def exhaustive(engine: Engine, request: Request) -> Answer:
    """Score every SID of the catalog by whole forward passes and sort."""
    trie, tokens_of = engine.trie, sid_tokens(engine.trie.space.codes)
    allowed = np.ones(trie.num_items, dtype=bool) if request.allowed is None else request.allowed
    owners: dict[tuple[int, ...], bool] = {}
    for leaf in trie.leaves:
        items = trie.items_at(leaf)
        owners[sid_of(trie, leaf)] = bool(allowed[items].any())
    sids = list(owners)
    rows = torch.tensor([written(request.tokens, sid, trie.space.codes) for sid in sids])
    logits = make_model()(input_ids=rows, use_cache=False).logits.double()
    scored = []
    for row, sid in enumerate(sids):
        total = 0.0
        for level, code in enumerate(sid):
            z = logits[row, len(request.tokens) - 1 + level, torch.from_numpy(tokens_of[level])]
            valid = sorted({other[level] for other in sids if other[:level] == sid[:level]})
            total += float(z[code] - torch.logsumexp(z[valid] if engine.config.normalise == "trie" else z, 0))
        scored.append((total, sid))
    width = request.widths(trie.space.levels, engine.config.beam)[-1]
    best = sorted((entry for entry in scored if owners[entry[1]]), key=lambda entry: (-entry[0], entry[1]))[:width]
    return Answer(sids=[s for _, s in best], scores=[total for total, _ in best], short=len(best) < width)


def sid_of(trie: Trie, leaf: int) -> tuple[int, ...]:
    sid: list[int] = []
    node = leaf
    for _ in range(trie.space.levels):
        sid.append(int(trie.child_code[node - 1]))
        node = int(np.searchsorted(trie.child_begin, node - 1, side="right")) - 1
    return tuple(reversed(sid))


@st.composite
def searches(draw: st.DrawFn) -> tuple[SidSpace, np.ndarray, list[Request], str]:
    codes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    rows = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in codes)), min_size=1, max_size=14))
    sids = np.array(rows, dtype=np.int32)
    width = st.integers(1, 20)
    requests = []
    for _ in range(draw(st.integers(1, 4))):
        mask = draw(st.none() | st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
        requests.append(
            Request(
                tokens=tuple(draw(st.lists(st.integers(0, 19), min_size=1, max_size=9))),
                beam=draw(width | st.tuples(*[width] * len(codes))),
                allowed=None if mask is None else np.array(mask, dtype=bool),
            )
        )
    return SidSpace(codes), sids, requests, draw(st.sampled_from(NORMALISE))


@settings(deadline=None, max_examples=50, derandomize=True)  # a near-tie before the last level may go either way
@given(searches())
def test_any_batch_equals_the_reference(search):
    space, sids, requests, normalise = search
    engine = make_engine(space, sids, normalise, max_rows=24)
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        assert_same(answer, reference_answer(engine, request))
        for sid in answer.sids:
            assert engine.trie.is_valid(sid)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(searches())
def test_a_width_that_covers_every_prefix_finds_the_best(search):
    space, sids, requests, normalise = search
    engine = make_engine(space, sids, normalise)
    covering = (len(sids),) * (space.levels - 1)
    wide = [
        Request(tokens=r.tokens, beam=(*covering, r.widths(space.levels, 1)[-1]), allowed=r.allowed) for r in requests
    ]
    for request, answer in zip(wide, engine.generate(wide), strict=True):
        assert_same(answer, exhaustive(engine, request))


@pytest.fixture(scope="module")
def catalog() -> tuple[SidSpace, np.ndarray]:
    return SidSpace((6, 6, 6)), np.random.default_rng(3).integers(0, 6, size=(40, 3)).astype(np.int32)


def prompts(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    generator = np.random.default_rng(seed)
    return [tuple(generator.integers(0, 20, size=int(generator.integers(1, 12))).tolist()) for _ in range(count)]


@pytest.mark.parametrize("normalise", NORMALISE)
def test_mixed_widths_beyond_codes_and_catalog(catalog, normalise):
    space, sids = catalog
    engine = make_engine(space, sids, normalise)
    beams = [1, 5, 7, 100, (2, 9, 4), (6, 6, 300), (1, 1, 50)]
    requests = [Request(tokens=t, beam=b) for t, b in zip(prompts(len(beams)), beams, strict=True)]
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        assert_same(answer, reference_answer(engine, request))
    distinct = len(np.unique(sids, axis=0))
    everything = engine.generate([requests[3]])[0]
    assert len(everything.sids) == distinct
    assert everything.short
    assert everything.scores == sorted(everything.scores, reverse=True)
    if normalise == "trie":
        assert np.exp(everything.scores).sum() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("normalise", NORMALISE)
def test_beams_keep_their_only_child_however_unlikely(normalise):
    """Below every first code only the code that the model likes least exists: a search that cuts first loses all."""
    space, tokens_of = SidSpace((4, 6, 6)), sid_tokens((4, 6, 6))
    prompt = (3, 1, 4)
    rows = []
    for first in range(4):
        prefix: tuple[int, ...] = (first,)
        for level in (1, 2):
            row = torch.tensor([written(prompt, prefix, space.codes)])
            with torch.no_grad():
                logits = make_model()(input_ids=row).logits[0, -1, torch.from_numpy(tokens_of[level])]
            prefix = (*prefix, int(logits.argmin()))
        rows.append(prefix)
    engine = make_engine(space, np.array(rows, dtype=np.int32), normalise)
    request = Request(tokens=prompt, beam=4)
    answer = engine.generate([request])[0]
    assert set(answer.sids) == set(rows)
    assert not answer.short
    assert_same(answer, exhaustive(engine, request))


def test_filters_act_inside_the_search_and_leave_scores_alone(catalog):
    space, sids = catalog
    engine = make_engine(space, sids)
    tokens = prompts(1)[0]
    everything = engine.generate([Request(tokens=tokens, beam=200)])[0]
    score_of = dict(zip(everything.sids, everything.scores, strict=True))
    # The items of the best SIDs are blocked: the same number of others comes back, at their unfiltered scores.
    blocked = set(everything.sids[:20])
    allowed = np.array([tuple(row) not in blocked for row in sids.tolist()])
    answer = engine.generate([Request(tokens=tokens, beam=(200, 200, 5), allowed=allowed)])[0]
    assert answer.sids == everything.sids[20:25]
    assert answer.scores == pytest.approx([score_of[sid] for sid in answer.sids], abs=NEAR)
    narrow = engine.generate([Request(tokens=tokens, beam=5, allowed=allowed)])[0]
    assert len(narrow.sids) == 5
    nothing = engine.generate([Request(tokens=tokens, beam=5, allowed=np.zeros(len(sids), dtype=bool))])[0]
    assert (nothing.sids, nothing.scores, nothing.short) == ([], [], True)


def test_a_shared_sid_stays_while_one_of_its_items_is_allowed():
    sids = np.array([[0, 0], [0, 0], [1, 1], [1, 0]], dtype=np.int32)
    engine = make_engine(SidSpace((2, 2)), sids)
    ask = [
        Request(tokens=(1, 2), beam=4, allowed=np.array(mask))
        for mask in ([True] * 4, [False, True, True, True], [False, False, True, True])
    ]
    full, one_left, none_left = engine.generate(ask)
    assert len(full.sids) == 3
    assert one_left.sids == full.sids
    assert set(none_left.sids) == {(1, 0), (1, 1)}


def test_batch_composition_and_budgets_do_not_change_answers(catalog):
    space, sids = catalog
    mask = np.random.default_rng(0).random(len(sids)) < 0.6
    requests = [
        Request(tokens=tokens, beam=1 + index % 9, allowed=mask if index % 3 == 0 else None)
        for index, tokens in enumerate(prompts(12, seed=5))
    ]
    together = make_engine(space, sids).generate(requests)
    for budget in ({"max_rows": 1}, {"max_prompt_tokens": 30}):
        for answer, other in zip(together, make_engine(space, sids, **budget).generate(requests), strict=True):
            assert_same(answer, other)
    backwards = make_engine(space, sids).generate(requests[::-1])[::-1]
    for answer, other in zip(together, backwards, strict=True):
        assert_same(answer, other)


def test_equal_scores_come_in_sid_order():
    """With all level heads zero every valid code of a prefix is as likely as its siblings."""
    space = SidSpace((3, 3))
    sids = np.array([[c, d] for c in (2, 0, 1) for d in (1, 0, 2)], dtype=np.int32)
    engine = make_engine(space, sids)
    for head in engine._search.decoder.weights.level_heads:
        head.zero_()
    answer = engine.generate([Request(tokens=(1,), beam=(3, 5))])[0]
    assert answer.sids == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert engine.generate([Request(tokens=(1,), beam=2)])[0].sids == [(0, 0), (0, 1)]


@pytest.mark.parametrize("normalise", NORMALISE)
def test_score_equals_generate(catalog, normalise):
    space, sids = catalog
    engine = make_engine(space, sids, normalise, max_rows=16)
    requests = [Request(tokens=tokens, beam=100) for tokens in prompts(3, seed=2)]
    answers = engine.generate(requests)
    absent = next(s for s in np.ndindex(*space.codes) if not engine.trie.is_valid(s))
    asked = [[*answer.sids, absent][::-1] for answer in answers]
    asked[1] = []
    for answer, scores in zip(answers, engine.score(requests, asked), strict=True):
        if len(scores):
            assert scores[0] == -np.inf
            assert scores[1:].tolist() == pytest.approx(answer.scores[::-1], abs=NEAR)
    one = reference.score(
        make_model(), engine.trie, sid_tokens(space.codes), requests[0].tokens, answers[0].sids[0], normalise=normalise
    )
    assert one == pytest.approx(answers[0].scores[0], abs=NEAR)


def test_a_trace_tells_what_each_level_kept(catalog):
    space, sids = catalog
    engine = make_engine(space, sids)
    plain, traced = engine.generate([Request(tokens=(4, 2), beam=3), Request(tokens=(4, 2), beam=3, trace=True)])
    assert plain.levels is None
    assert traced.levels is not None
    assert [level.level for level in traced.levels] == [0, 1, 2]
    for level, after in zip(traced.levels, traced.levels[1:], strict=False):
        for beam in level.beams:
            kept = sum(child.prefix[:-1] == beam.prefix for child in after.beams)
            codes, _ = engine.trie.children(engine.trie.walk(beam.prefix))
            assert (beam.children, beam.pruned) == (len(codes), len(codes) - kept)
    assert [beam.prefix for beam in traced.levels[-1].beams] == traced.sids
    assert all(beam.pruned == 0 for beam in traced.levels[-1].beams)


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_at_every_level(catalog, normalise, level, wrong):
    space, sids = catalog
    engine = make_engine(space, sids, normalise)
    rows = sorted({tuple(row) for row in sids.tolist()})
    sid = next(row for row, after in pairwise(rows) if row[:2] == after[:2])  # no level of it is forced
    engine._search.decoder.weights.level_heads[level][sid[level]] = wrong
    request = Request(tokens=(4, 2), beam=100)
    for ask in (lambda: engine.generate([request]), lambda: engine.score([request], [[sid]])):
        with pytest.raises(DataError, match=f"(?s)not finite.*level {level}"):
            ask()


def test_codes_that_no_sid_goes_on_with_may_be_anything():
    sids = np.array([[0, 0], [0, 1], [1, 0], [1, 2]], dtype=np.int32)
    request = Request(tokens=(4, 2), beam=4)
    whole = make_engine(SidSpace((2, 4)), sids).generate([request])[0]
    for normalise in NORMALISE:
        engine = make_engine(SidSpace((2, 4)), sids, normalise)
        engine._search.decoder.weights.level_heads[1][3] = np.nan
        if normalise == "level":
            with pytest.raises(DataError, match="level 1"):
                engine.generate([request])
        else:
            assert_same(engine.generate([request])[0], whole)


def test_an_empty_catalog_has_no_answer():
    engine = make_engine(SidSpace((3, 3)), np.empty((0, 2), dtype=np.int32))
    answer = engine.generate([Request(tokens=(1,), beam=4)])[0]
    assert (answer.sids, answer.short) == ([], True)


def test_the_engine_keeps_weights_of_its_own(catalog):
    model = copy.deepcopy(make_model())
    space, sids = catalog
    engine = Engine(model, Trie.build(space, sids), sid_tokens(space.codes), EngineConfig(device="cpu"))
    before = engine.generate([Request(tokens=(1, 2))])[0]
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.zero_()
    assert engine.generate([Request(tokens=(1, 2))])[0].scores == before.scores


def test_no_requests_no_answers(catalog):
    assert make_engine(*catalog).generate([]) == []
    assert make_engine(*catalog).score([], []) == []


@pytest.mark.gpu
@pytest.mark.parametrize("normalise", NORMALISE)
def test_cuda_float32_equals_cpu(catalog, normalise):
    space, sids = catalog
    trie = Trie.build(space, sids)
    mask = np.random.default_rng(0).random(len(sids)) < 0.6
    requests = [
        Request(tokens=tokens, beam=1 + 7 * index, allowed=mask if index % 2 else None)
        for index, tokens in enumerate(prompts(6, seed=5))
    ]
    configs = [EngineConfig(device=device, dtype="float32", normalise=normalise) for device in ("cpu", "cuda")]
    engines = [Engine(make_model(), trie, sid_tokens(space.codes), config) for config in configs]
    on_cpu, on_gpu = (engine.generate(requests) for engine in engines)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert_same(ours, theirs, near=1e-3)
    asked = [answer.sids for answer in on_cpu]
    for scores, answer in zip(engines[1].score(requests, asked), on_cpu, strict=True):
        assert scores.tolist() == pytest.approx(answer.scores, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["qwen2", "llama_llama3", "qwen3_tied"])
def test_cuda_bfloat16_scores_stay_close(catalog, name):
    space, sids = catalog
    trie = Trie.build(space, sids)
    requests = [Request(tokens=tokens, beam=60) for tokens in prompts(4, seed=7)]
    exact = Engine(make_model(name), trie, sid_tokens(space.codes), EngineConfig(device="cpu")).generate(requests)
    engine = Engine(make_model(name), trie, sid_tokens(space.codes), EngineConfig(device="cuda"))
    assert engine.dtype == torch.bfloat16
    for scores, answer in zip(engine.score(requests, [a.sids for a in exact]), exact, strict=True):
        assert np.abs(scores - np.array(answer.scores)).mean() < 0.25
