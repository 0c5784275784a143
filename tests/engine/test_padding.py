"""Batches that are padded to sizes of graphs that exist: few graphs serve all, and answers stay the reference's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrecall.engine import reference, setup
from genrecall.engine.config import Budgets, EngineConfig
from genrecall.engine.device.beams import SearchShape
from genrecall.engine.device.graphs import Graphs
from genrecall.engine.device.padding import LONG, OFTEN, Ahead, Levels, Padding, Part, Prompts, any_sizes
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.engine.host.step import Sizes, fit, fit_requests, ladder, near
from tests.engine.models import make_model, sid_tokens
from tests.engine.replay import let_capture
from tests.engine.test_shipped import SPACE, catalog, check


@given(st.integers(1, 5000), st.integers(0, 5000), st.data())
def test_a_step_of_the_ladder_is_near_above_any_size(least, more, data):
    most = least + more
    count = fit(data.draw(st.integers(least, most)))
    steps = ladder(least, most)
    assert steps == sorted({fit(step) for step in steps})
    assert steps[-1] == fit(most)
    assert min(step for step in steps if step >= count) <= near(count)


def test_a_ladder_has_few_steps():
    assert len(ladder(1, 1024)) == 8
    assert len(ladder(1, 4096)) < 30


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    return request.param


def make_warm(device: str, forced: str = "run", *, widest: int = 200, invariant: bool = False) -> tuple[Engine, Graphs]:
    """An engine of batches of up to 700 rows that was warmed up for anything."""
    budgets = Budgets(page_tokens=8, requests=20, filters=4, kv_tokens=4000, widest_beam=max(widest, 700))
    config = EngineConfig(
        device=device, dtype="float32", forced=forced, budgets=budgets, max_rows=700, batch_invariant=invariant
    )
    engine = Engine(make_model(), catalog(0, 200), sid_tokens(SPACE.codes), config)
    graphs = engine.loop.runner.graphs if device == "cuda" else let_capture(engine.loop.runner)
    engine.warm_up_all(Request(tokens=(1, 2, 3), beam=4), widest=widest)
    return engine, graphs


@pytest.fixture
def warm(device) -> tuple[Engine, Graphs]:
    return make_warm(device)


def anything(seed: int, engine: Engine, requests: int, beams: tuple[int, ...] = (1, 2, 4, 5)) -> list[Request]:
    """Requests of all lengths and widths, with and without filters; some continue what their user asked before."""
    rng = np.random.default_rng(seed)
    mask = rng.random(engine.trie.num_items) < 0.6
    found = []
    for _ in range(requests):
        user, size = int(rng.integers(0, 12)), int(rng.choice([1, 3, 8, 20, 45]))
        prompt = np.random.default_rng(user).integers(0, 20, size).tolist()
        beam = int(rng.choice(beams))
        allowed = mask if rng.random() < 0.5 else None
        found.append(Request(tokens=tuple(prompt), beam=beam, allowed=allowed, user=f"user {user}"))
    return found


def test_whatever_comes_finds_its_graphs_and_its_answers(warm):
    engine, graphs = warm
    captured, eager = graphs.captured, graphs.eager
    assert captured < 60
    for seed, requests in enumerate((1, 2, 20, 7, 13, 1, 40)):
        asked = anything(seed, engine, requests)
        for request, answer in zip(asked, engine.generate(asked), strict=True):
            check(answer, request, engine.trie, 1e-4 if engine.device.type == "cpu" else 1e-3)
    assert (graphs.captured, graphs.eager) == (captured, eager), "nobody waited for a capture"


@pytest.mark.parametrize("compact_from", [0, 60])
def test_forced_levels_are_left_out_in_graphs_made_ahead(device, compact_from, monkeypatch):
    monkeypatch.setattr(setup, "_compact_from", lambda *_: compact_from)
    engine, graphs = make_warm(device, "skip")
    captured, eager = graphs.captured, graphs.eager
    assert captured < 120
    for seed, requests in enumerate((1, 2, 20, 7, 13, 1, 40)):
        asked = anything(seed, engine, requests, beams=(1, 2, 4, 5) if compact_from else (1, 3, 5, 17, 60, 150))
        for request, answer in zip(asked, engine.generate(asked), strict=True):
            check(answer, request, engine.trie, 1e-4 if engine.device.type == "cpu" else 1e-3)
    assert (graphs.captured, graphs.eager) == (captured, eager), "nobody waited for a capture"
    assert any(isinstance(key, Part) and key.levels.requests > 1 for key in graphs.keys)


def test_scored_candidates_are_captured_only_where_their_sizes_come_often(warm):
    engine, graphs = warm
    sids = sorted({tuple(map(int, sid)) for sid in np.random.default_rng(0).integers(0, 5, (200, 3))})
    captured = graphs.captured
    for seed in range(6):
        rng = np.random.default_rng(seed)
        asked = [replace(request, beam=1, allowed=None) for request in anything(seed, engine, 3)]
        wanted = [[sids[place] for place in rng.integers(0, len(sids), 5 + seed)] for _ in asked]
        before = graphs.eager
        for request, some, found in zip(asked, wanted, engine.score(asked, wanted), strict=True):
            tokens = sid_tokens(SPACE.codes)
            expected = [reference.score(make_model(), engine.trie, tokens, request.tokens, sid) for sid in some]
            assert np.allclose(found, expected, atol=1e-3)
        assert graphs.eager <= before + 1, "their prompts find a graph"
    assert graphs.captured == captured
    for _ in range(OFTEN + 1):
        engine.score(asked, wanted)
    assert graphs.captured == captured + 1


@pytest.mark.parametrize("invariant", [False, True])
def test_the_widest_beam_need_be_no_power_of_two(device, invariant):
    engine, graphs = make_warm(device, "skip", widest=700, invariant=invariant)
    captured, eager = graphs.captured, graphs.eager
    asked = anything(0, engine, 3, beams=(600, 700))
    for request, answer in zip(asked, engine.generate(asked), strict=True):
        check(answer, request, engine.trie, 1e-4 if engine.device.type == "cpu" else 1e-3)
    assert (graphs.captured, graphs.eager) == (captured, eager), "nobody waited for a capture"


def test_who_asks_while_an_engine_is_warmed_up_is_answered_rightly():
    engine, _ = make_warm("cpu", "skip")
    request = anything(1, engine, 1, beams=(20,))[0]
    sizes = Sizes(requests=1, pages=16, tokens=128, rows=(128,) * 3, widest=32)
    with engine.loop.runner.padding.held(Ahead(sizes, 1, running=0)):
        check(engine.generate([request])[0], request, engine.trie, 1e-4)


def test_wide_beams_of_few_first_codes_get_their_own_sizes(warm):
    """Their rows grow from level to level more than those of any graph that was made ahead."""
    engine, graphs = warm
    captured = graphs.captured
    asked = anything(3, engine, 12, beams=(17, 40, 150))
    for _ in range(12):
        for request, answer in zip(asked, engine.generate(asked), strict=True):
            check(answer, request, engine.trie, 1e-4 if engine.device.type == "cpu" else 1e-3)
    assert graphs.captured > captured


def test_own_sizes_are_captured_where_nothing_near_is(warm):
    engine, graphs = warm
    sampled = [Request(tokens=(1, 2), beam=3, seed=5)]  # no graph was made for samples
    eager = graphs.eager
    first, second, third = (engine.generate(sampled)[0] for _ in range(3))
    assert graphs.eager == eager + 1
    assert first.sids == second.sids == third.sids


OWN = Sizes(requests=4, pages=256, tokens=600, rows=(200, 200, 200), widest=64)
SHAPE = SearchShape(
    rows=OWN.rows, widest=64, most_children=(8, 8, 8), filtered=True, sampled=False, capped=False, compact=False
)


class Captured:
    """Graphs of given names."""

    in_haste, lasting, has_room = False, False, True

    def __init__(self, *keys: object) -> None:
        self.keys = keys


def levels(requests: int, rows: int, **changed: object) -> Levels:
    shape = replace(SHAPE, rows=(rows,) * 3, **changed)
    return Levels(requests, 256, shape)


def chosen(*keys: object, own: Sizes = OWN, times: int = 1) -> Sizes:
    padding = Padding(Captured(*keys))  # type: ignore[arg-type]
    for _ in range(times):
        found = padding.choose(own, Levels(own.requests, own.pages, replace(SHAPE, rows=own.rows)))
    return found


def test_the_nearest_levels_with_a_graph_for_the_prompts_are_chosen():
    near_ones = [levels(4, 208), levels(128, 256), levels(128, 320)]
    assert chosen(*near_ones, Prompts(128, 256, 640)) == replace(OWN, requests=128, tokens=640, rows=(256,) * 3)
    assert chosen(*near_ones, Prompts(4, 256, 640)).rows == (208,) * 3
    assert chosen(*near_ones) == replace(OWN, rows=(208,) * 3), "the prompts alone run as they are"
    assert chosen(*near_ones, Prompts(4, 256, 900)).tokens == 600, "too far"
    assert chosen(Prompts(4, 256, 608)) == replace(OWN, tokens=608)
    assert chosen() == OWN


def test_graphs_of_other_searches_or_smaller_sizes_serve_nobody():
    for other in (
        levels(2, 208), levels(4, 192), levels(4, 208, widest=32), levels(4, 208, sampled=True),
        levels(4, 208, most_children=(8, 8, 16)), levels(4, 208, filtered=False),
    ):  # fmt: skip
        assert chosen(other) == OWN


def test_far_sizes_serve_only_until_a_batch_came_often(monkeypatch):
    far, farther = levels(8, 400), levels(8, 900)
    assert chosen(far, times=8).rows == (400,) * 3
    assert chosen(far, Prompts(4, 256, 640), times=9) == replace(OWN, tokens=640)
    assert chosen(farther) == OWN
    assert chosen(far, levels(8, 240), times=20).rows == (240,) * 3
    monkeypatch.setattr(Captured, "has_room", False)
    assert chosen(far, times=20).rows == (400,) * 3, "its own would not be kept"


def test_long_prompts_are_read_as_they_are():
    own = replace(OWN, tokens=LONG)
    assert chosen(levels(4, 208), Prompts(4, 256, LONG + 128), own=own) == replace(own, rows=(208,) * 3)


@pytest.mark.parametrize("compact", [None, 4096])
def test_any_batch_finds_sizes_that_were_made_ahead(compact):
    one = Sizes(requests=1, pages=16, tokens=16, rows=(256, 304, 304), widest=512)
    found = any_sizes(
        one, requests=512, pages=256, tokens=8192, rows=4096, widths=(1000, 100), window=600, compact=compact
    )  # fmt: skip
    alone = [ahead.sizes for ahead in found if ahead.sizes.requests == 1]
    assert max(size.tokens for size in alone) <= near(600)
    assert all(size.hold(one) and size.rows == one.rows for size in alone)
    many = [ahead.sizes for ahead in found if ahead.requests == 2]
    assert len(set(many)) == len(many) < 90
    assert [size.run for size in many] == sorted((size.run for size in many), reverse=True)
    assert {size.widest for size in many} == {512, 1024}
    keys = [*(Levels(s.requests, s.pages, replace(SHAPE, rows=s.rows, widest=s.widest)) for s in many)]
    keys += [Prompts(size.requests, size.pages, size.tokens) for size in many]
    batches = [
        (2, 8, (16, 16, 16), 8), (4, 300, (1024, 1216, 1216), 512), (100, 1500, (1000, 1000, 1000), 64),
        (3, 40, (800, 912, 912), 512), (128, 2000, (1300, 1300, 1300), 32),
    ]  # fmt: skip
    if compact is None:
        batches += [(9, 300, (2304, 2736, 2736), 512), (128, 2000, (3500, 3500, 3500), 32)]
    for requests, tokens, rows, widest in batches:
        own = Sizes(fit_requests(requests), 32, fit(tokens), tuple(map(fit, rows)), widest)
        got = chosen(*keys, own=own)
        assert got in {replace(size, tokens=got.tokens) for size in many}
        assert got.run <= near(own.run, 2)
        assert own.tokens <= got.tokens <= near(own.tokens)


def compact_padding(one: Sizes) -> Padding:
    """That knows all compact sizes that are made ahead."""
    limits = {"requests": 128, "pages": 256, "tokens": 8192, "rows": 4096, "widths": (1024,), "window": 200}
    padding = Padding(Captured())  # type: ignore[arg-type]
    for ahead in any_sizes(one, **limits, compact=4096):
        if ahead.running is not None:
            sizes = ahead.sizes
            shape = replace(SHAPE, rows=sizes.rows, widest=sizes.widest, compact=True)
            with padding.held(ahead):
                assert padding.running(Levels(sizes.requests, sizes.pages, shape), 1, 0) == ahead.running
    return padding


def test_a_compact_search_runs_the_least_rows_that_were_made_ahead():
    padding = compact_padding(Sizes(requests=1, pages=16, tokens=16, rows=(56, 56, 56), widest=64))
    for requests, rows, widest, expected, runs in (
        (1, 48, 64, 56, {0: 0, 1: 56, 56: 56}),
        (1, 304, 512, 1024, {0: 0, 1: 128, 130: 256, 304: 384}),
        (8, 2304, 512, 4096, {5: 128, 1500: 1536, 2304: 2304}),
    ):
        own = Sizes(requests, 16, 40, (rows,) * 3, widest)
        shape = replace(SHAPE, rows=own.rows, widest=widest, compact=True)
        got = padding.choose(own, Levels(requests, 16, shape))
        assert got.rows == (expected,) * 3
        key = Levels(got.requests, got.pages, replace(shape, rows=got.rows, widest=got.widest))
        assert {must: padding.running(key, 2, must) for must in runs} == runs
    sampled = Levels(1, 16, replace(SHAPE, rows=own.rows, widest=512, compact=True, sampled=True))
    assert padding.choose(own, sampled) == own
    assert padding.running(sampled, 1, 33) == 40


def test_a_narrow_request_takes_no_places_for_others():
    one = Sizes(requests=1, pages=16, tokens=16, rows=(320, 320, 320), widest=512)
    own = replace(one, rows=(8, 8, 8), widest=8)
    shape = replace(SHAPE, rows=own.rows, widest=8, compact=True)
    assert compact_padding(one).choose(own, Levels(1, 16, shape)) == one


def test_sizes_made_ahead_keep_to_the_engines_limits():
    one = Sizes(requests=1, pages=16, tokens=16, rows=(24, 24), widest=32)
    limits = {"requests": 8, "pages": 16, "tokens": 8, "rows": 4096, "widths": (), "window": 20}
    found = [ahead.sizes for ahead in any_sizes(one, **limits, compact=None)]
    assert {size.requests for size in found} == {8}
    assert max(max(size.rows) for size in found) == 8 * 24
    assert {(size.pages, size.tokens) for size in found} == {(16, 8)}
    compact = [ahead for ahead in any_sizes(one, **limits, compact=0) if ahead.running is not None]
    assert max(max(ahead.sizes.rows) for ahead in compact) == 8 * 24
    assert {ahead.running for ahead in compact} == {0, 24, 128, 192}


@pytest.mark.parametrize("most", [700, 4096, 9000])
def test_sizes_made_ahead_hold_the_largest_compact_batches_and_no_more(most):
    one = Sizes(requests=1, pages=16, tokens=16, rows=(24, 24), widest=32)
    limits = {"requests": 512, "pages": 256, "tokens": 8192, "rows": most, "widths": (600,), "window": 200}
    found = [max(ahead.sizes.rows) for ahead in any_sizes(one, **limits, compact=1000)]
    assert max(found) == fit(most)


def test_batches_shortly_before_they_are_compact_find_sizes():
    """Six of the usual width, where there are few first codes."""
    one = Sizes(requests=1, pages=16, tokens=16, rows=(64, 304, 304), widest=512)
    limits = {"requests": 512, "pages": 256, "tokens": 8192, "rows": 4096, "widths": (1024,), "window": 200}
    found = [ahead.sizes for ahead in any_sizes(one, **limits, compact=4096) if ahead.running is None]
    keys = [Levels(s.requests, s.pages, replace(SHAPE, rows=s.rows, widest=s.widest)) for s in found]
    own = Sizes(requests=8, pages=16, tokens=256, rows=(384, 1920, 1920), widest=512)
    got = chosen(*keys, own=own)
    assert got in [replace(size, tokens=own.tokens) for size in found]
    assert got.run <= near(own.run, 2)
