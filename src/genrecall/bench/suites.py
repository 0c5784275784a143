"""The cases of the engine's benchmark, by suite; a case measures one thing on an engine that others may share.

    table       saturated rate, share of the floor, one request alone, GPU time by kernel, beside transformers
    open-loop   the highest Poisson rate whose p99 holds
    options     see ``options``;  catalog, long, start: see ``scale``
    ranks       see ``ranks``;  replicas: see ``replicas``

Requests arrive closed-loop unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genrecall.bench.hf import transformers_rate
from genrecall.bench.load import alone_seconds, highest_rate, open_loop
from genrecall.bench.rig import Rig, Setup, catalog_of
from genrecall.bench.shapes import random_model, shape_of

if TYPE_CHECKING:
    from genrecall.bench.engine import EngineBench


_ALONE = 30
"""Requests whose median is the latency of one alone."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement.

    Attributes:
        name: unlike that of any other case of a run.
        setup: of the engine that it wants; None: it opens what it needs itself.
        run: measures on the open engine; is given None where it wants none.
        versus: further figures, from what was measured and from all cases so far.
    """

    name: str
    setup: Setup | None
    run: Callable[[Any], dict[str, Any]]
    versus: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None


def setup_of(bench: EngineBench, precision: str) -> Setup:
    """What most cases run on."""
    return Setup(
        shape=bench.shape, precision=precision, levels=bench.levels, codes=bench.codes, items=bench.catalog_items,
        forced=bench.forced,
    )  # fmt: skip


def table(bench: EngineBench) -> Iterator[Case]:
    """Every beam with every precision; transformers first, on an empty device."""
    if bench.versus_hf:
        for beam in bench.beams:
            yield Case(name=f"transformers W={beam}", setup=None, run=partial(_transformers, bench, beam))
    for precision in bench.precisions:
        for beam in bench.beams:
            yield Case(
                name=f"{precision} W={beam}",
                setup=setup_of(bench, precision),
                run=partial(point_of, bench, beam),
            )


def loads(bench: EngineBench) -> Iterator[Case]:
    """The highest rate that keeps the objective, for every beam and precision."""
    for precision in bench.precisions:
        for beam in bench.beams:
            yield Case(
                name=f"{precision} W={beam} open loop",
                setup=setup_of(bench, precision),
                run=partial(_objective, bench, beam),
            )


def saturated_point(bench: EngineBench, rig: Rig, beam: int, prompt: int | None = None) -> dict[str, Any]:
    """Rate, floor and share at one width."""
    least, most = (prompt, prompt) if prompt else bench.input
    rows = rig.rows((least + most) // 2, beam)
    sizes = rig.sizes(bench.batches, max(rows[1:], default=1))
    floor = rig.floor(rows, sizes, bench.seconds / 2 if rig.device.type == "cuda" else 0.0)
    found = rig.saturated(rig.maker(beam, least, most), sizes, bench.seconds, mixed=least < most)
    return {
        "precision": rig.setup.precision, "beam": beam, "rows": rows, "floor": asdict(floor), **found,
        "share_of_floor": found["requests_per_s"] / floor.requests_per_s,
        "share_of_rested_floor": found["requests_per_s"] / floor.rested_per_s,
    }  # fmt: skip


def point_of(bench: EngineBench, beam: int, rig: Rig) -> dict[str, Any]:
    """All that the table says of one width."""
    point = saturated_point(bench, rig, beam)
    make = rig.maker(beam, *bench.input)
    if bench.alone:
        alone_s = alone_seconds(rig.engine, make, requests=_ALONE, pause_s=min(bench.seconds, 3.0) / _ALONE)
        point["alone_ms"] = 1e3 * alone_s
        point["alone_over_floor"] = alone_s / point["floor"]["alone_s"]
    if bench.rate is not None or bench.slo_ms is not None:
        _warm_every_size(rig, beam, bench, point["batch"])
    if bench.rate is not None:
        point["open_loop"] = asdict(open_loop(rig.engine, make, rate=bench.rate, seconds=bench.seconds))
    if bench.slo_ms is not None:
        point |= _search(bench, rig, beam, point["requests_per_s"], bench.slo_ms)
    point["gpu_time"] = rig.gpu_time(make, 4 * point["batch"])
    return point | rig.facts()


def _objective(bench: EngineBench, beam: int, rig: Rig) -> dict[str, Any]:
    point = saturated_point(bench, rig, beam)
    _warm_every_size(rig, beam, bench, point["batch"])
    return point | _search(bench, rig, beam, point["requests_per_s"], bench.slo_ms or 100.0) | rig.facts()


def _search(bench: EngineBench, rig: Rig, beam: int, ceiling: float, slo_ms: float) -> dict[str, Any]:
    """Batches as large as saturate best, then ones that may take a third and a quarter of the objective: a request
    waits for about two.
    """
    make, best, found = rig.maker(beam, *bench.input), None, {}
    batch = rig.engine.loop.scheduler.limits.requests
    for share in (None, 1 / 3, 1 / 4):
        rig.limit(batch, None if share is None else share * slo_ms / 1e3)
        one, tried = highest_rate(
            lambda rate, seed: open_loop(rig.engine, make, rate=rate, seconds=bench.seconds, seed=seed),
            slo_ms=slo_ms, ceiling=ceiling, probes=bench.probes,
        )  # fmt: skip
        found["uncapped" if share is None else f"batches of {share * slo_ms:.0f} ms"] = [asdict(each) for each in tried]
        best = max((each for each in (best, one) if each is not None), key=lambda each: each.rate, default=None)
    rig.limit(batch)
    return {
        "slo_ms": slo_ms,
        "slo": None if best is None else asdict(best),
        "slo_of_saturated": 0.0 if best is None else best.rate / ceiling,
        "slo_probes": found,
    }


def _warm_every_size(rig: Rig, beam: int, bench: EngineBench, largest: int) -> None:
    """Open loops meet batches of every size up to the largest: they find a graph, as a service's do."""
    rig.limit(largest)
    rig.engine.warm_up_all(rig.maker(beam, *bench.input)(0), widest=1)


def _transformers(bench: EngineBench, beam: int, _: None) -> dict[str, Any]:
    """transformers' own constrained search, one request a call, in bf16 (float32 on a CPU)."""
    shape, device = shape_of(bench.shape), bench.torch_device
    trie = catalog_of(setup_of(bench, bench.precisions[0]), bench.seed)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model = random_model(shape, trie.space.num_tokens, device=device, dtype=dtype, seed=bench.seed)
    space = trie.space
    tokens = [shape.words + space.offset(level) + np.arange(size) for level, size in enumerate(space.codes)]
    prompt = torch.randint(0, shape.words, (bench.input[0],), generator=torch.Generator().manual_seed(bench.seed))
    rate = transformers_rate(model, prompt.tolist(), trie, tokens, beam)
    return {"beam": beam, "dtype": str(dtype).removeprefix("torch."), "requests_per_s": rate, "ms": 1e3 / rate}
