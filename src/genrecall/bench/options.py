"""Cases of what lies beside the plain search: schedules, forced levels, filters, mixtures, scoring, samples, trunks.

Each is set beside the plain search on the same engine, in the same case; ``ratio`` is its rate over the plain one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from genrecall.bench.kernel_time import kernel_time
from genrecall.bench.load import saturated
from genrecall.bench.rig import Make, Rig, free, open_rig
from genrecall.bench.suites import Case, setup_of
from genrecall.engine.device.scoring import Candidates, held
from genrecall.engine.host.request import Request

if TYPE_CHECKING:
    from genrecall.bench.engine import EngineBench


def options(bench: EngineBench) -> Iterator[Case]:
    """All of them, in the first precision."""
    plain = setup_of(bench, bench.precisions[0])
    yield Case(name="schedule", setup=plain, run=lambda rig: _schedule(bench, rig))
    yield Case(name="filters", setup=plain, run=lambda rig: _filters(bench, rig))
    yield Case(name="mixed widths and lengths", setup=plain, run=lambda rig: _mixed(bench, rig))
    yield Case(name="sampling", setup=plain, run=lambda rig: _against(bench, rig, seed=7))
    yield Case(name="diversity", setup=plain, run=lambda rig: _against(bench, rig, most_a_code=_few(bench)))
    yield Case(name="score candidates", setup=plain, run=lambda rig: _score(bench, rig))
    if bench.table is not None:
        yield Case(name="forced levels", setup=None, run=lambda _: _forced(bench))
    for shape in (f"trunk:{bench.shape}", "trunk:10m"):
        yield Case(name=shape, setup=replace(plain, shape=shape), run=lambda rig: _trunk(bench, rig))


def _few(bench: EngineBench) -> int:
    return max(1, max(bench.beams) // 8)


def widest(bench: EngineBench) -> int:
    """300 where the sweep has it."""
    return 300 if 300 in bench.beams else max(bench.beams)


def _sizes(bench: EngineBench, rig: Rig, beam: int) -> list[int]:
    return rig.sizes(bench.batches, min(beam, max(rig.rows(1, beam))))


def _against(bench: EngineBench, rig: Rig, **option: Any) -> dict[str, Any]:
    beam = widest(bench)
    sizes = _sizes(bench, rig, beam)
    plain = rig.saturated(rig.maker(beam, *bench.input), sizes, bench.seconds)
    found = rig.saturated(rig.maker(beam, *bench.input, **option), sizes, bench.seconds)
    return {"beam": beam, "option": option, "plain": plain, **found, **_ratio(found, plain)}


def _ratio(found: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    return {"ratio": found["requests_per_s"] / plain["requests_per_s"]}


def _schedule(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    """64 → 128 → 300 → 300 (in proportion where the widest beam is another), beside the widest at every level."""
    beam, levels = widest(bench), rig.space.levels
    narrow = (max(1, beam * 64 // 300), max(1, beam * 128 // 300))
    widths = (*(*narrow, *([beam] * levels))[: levels - 1], beam)
    sizes = _sizes(bench, rig, beam)
    plain = rig.saturated(rig.maker(beam, *bench.input), sizes, bench.seconds)
    found = rig.saturated(rig.maker(widths, *bench.input), sizes, bench.seconds)
    return {"beam": beam, "widths": widths, "plain": plain, **found, **_ratio(found, plain)}


def _filters(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    """One read-only mask for all, then one of its own for every request, nine items in ten allowed."""
    figures: dict[str, Any] = {}
    for beam in sorted({min(bench.beams), widest(bench)}):
        sizes = _sizes(bench, rig, beam)
        plain = rig.saturated(rig.maker(beam, *bench.input), sizes, bench.seconds)
        masks = [rig.rng.random(rig.trie.num_items) < 0.9 for _ in range(64)]
        masks[0].flags.writeable = False
        prompts = rig.prompts(*bench.input)
        for name, count in (("shared", 1), ("own", len(masks))):

            def make(
                number: int,
                beam: int = beam,
                count: int = count,
                masks: list[np.ndarray] = masks,
                prompts: list[tuple[int, ...]] = prompts,
            ) -> Request:
                return Request(tokens=prompts[number % len(prompts)], beam=beam, allowed=masks[number % count])

            found = rig.saturated(make, sizes, bench.seconds)
            figures[f"W={beam} {name}"] = {**found, **_ratio(found, plain), "plain": plain["requests_per_s"]}
    return figures


def _mixed(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    """Kinds of requests in turn, beside the mean of their pure rates, weighted by the time that each takes."""
    lengths = (max(1, bench.input[0] // 3), bench.input[0], 2 * bench.input[1])
    beams = tuple(sorted(bench.beams))[:3] if len(bench.beams) >= 3 else bench.beams * 3
    makers = [rig.maker(beam, length) for beam, length in zip(beams, lengths, strict=False)]
    pure = [
        rig.saturated(make, _sizes(bench, rig, beam), bench.seconds)["requests_per_s"]
        for make, beam in zip(makers, beams, strict=False)
    ]
    mixed = rig.saturated(
        lambda number: makers[number % len(makers)](number), _sizes(bench, rig, max(beams)), bench.seconds
    )
    mean = len(pure) / sum(1 / rate for rate in pure)
    kinds = [{"beam": beam, "tokens": length} for beam, length in zip(beams, lengths, strict=False)]
    return {"kinds": kinds, "pure": pure, "weighted_mean": mean, **mixed, "ratio": mixed["requests_per_s"] / mean}


def _score(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    """1,000 candidates a request (a tenth of a smaller catalog), beside the floor of their distinct prefixes' rows: of
    a pass for every level, as a search has, and of one for all levels, as they run.
    """
    trie, engine = rig.trie, rig.engine
    count = min(1000, max(1, trie.num_items // 10))
    leaves = rig.rng.choice(len(trie.leaves), count, replace=False) + trie.leaves.start
    sids = np.empty((count, rig.space.levels), dtype=np.int64)
    node = leaves
    for level in range(rig.space.levels - 1, -1, -1):
        sids[:, level] = trie.child_code[node - 1]
        node = np.searchsorted(trie.child_begin, node - 1, side="right") - 1
    prompt = (bench.input[0] + bench.input[1]) // 2
    make = rig.maker(1, prompt)
    paths = trie.paths(sids)
    order = held(paths)
    rows = (prompt, *Candidates.of(sids[order], paths[order], trie, "trie").rows[:-1])
    figures: dict[str, Any] = {"candidates": count, "rows": rows}
    for size in (1, *rig.sizes((2, 4), max(*rows[1:], count))):
        rig.limit(size)

        def submit(number: int, deliver: Any) -> None:
            engine.submit_scoring(make(number), sids, deliver)

        for _ in range(3):  # compiled, captured, replayed
            found = saturated(engine, make, outstanding=3 * size, seconds=bench.seconds, submit=submit)
        floor_s = rig.products.seconds([size * one for one in rows]) / size
        merged_s = rig.products.seconds([size * prompt, size * sum(rows[1:])]) / size
        figures[f"batches of {size}"] = {
            "requests_per_s": found.rate, "floor_requests_per_s": 1 / floor_s, "over_floor": 1 / (found.rate * floor_s),
            "over_floor_of_one_pass": 1 / (found.rate * merged_s),
        }  # fmt: skip
        if rig.device.type == "cuda":
            asked = [make(number) for number in range(4 * size)]
            run = partial(engine.score, asked, [sids] * len(asked))
            figures[f"batches of {size}"]["gpu_time"] = kernel_time(run)
    rig.limit(None)
    return figures


def _forced(bench: EngineBench) -> dict[str, Any]:
    """On the trie of a real table: rows left out beside rows run, and what the ratio of the two allows."""
    beam, figures, rows = widest(bench), {}, (0.0, 0.0)
    for forced in ("run", "skip"):
        setup = replace(setup_of(bench, bench.precisions[0]), forced=forced, table=str(bench.table))
        rig = open_rig(setup, bench.torch_device, bench.seed)
        make = rig.maker(beam, *bench.input)
        figures[forced] = rig.saturated(make, _sizes(bench, rig, beam), bench.seconds)
        rows = _rows_run(rig, make, sum(bench.input) / 2)
        del rig, make
        free()
    allowed, reached = rows[0] / rows[1], figures["skip"]["requests_per_s"] / figures["run"]["requests_per_s"]
    return {
        "beam": beam, "rows": rows[0], "rows_that_must_run": rows[1], "allowed_ratio": allowed, "ratio": reached,
        "share_of_allowed": reached / allowed, **figures,
    }  # fmt: skip


def _rows_run(rig: Rig, make: Make, prompt: float) -> tuple[float, float]:
    """Rows of a request, all and without those whose rest is forced, as traced answers have them."""
    asked = [replace(make(number), trace=True) for number in range(8)]
    every = must = 0
    for answer in rig.engine.generate(asked):
        assert answer.levels is not None, "a trace was asked for"
        for level in answer.levels[:-1]:
            nodes = rig.trie.paths(np.array([beam.prefix for beam in level.beams]))[:, -1]
            every += len(nodes)
            must += int((rig.trie.num_sids[nodes] > 1).sum())
    return prompt + every / len(asked), prompt + must / len(asked)


def _trunk(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    """A history of as many items as the plain prompt spends SIDs on, at every width."""
    items = max(1, sum(bench.input) // 2 // rig.space.levels)
    figures: dict[str, Any] = {"history_items": items, **rig.facts()}
    for beam in bench.beams:
        sizes = rig.sizes([*bench.batches, *(8 * size for size in bench.batches)], max(rig.rows(1, beam)))
        figures[f"W={beam}"] = rig.saturated(rig.maker(beam, items), sizes, bench.seconds)
    return figures
