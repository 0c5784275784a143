"""The engine under load, beside the floor of its linear layers and beside transformers' own search, on one device.

    share of the floor = (requests/s of the saturated engine) / (requests/s of the linear layers alone)

All figures of a point are taken in one process after each other; prompts, SIDs and weights are random. Weights are true
to shape, so that speed is; scores are nearly uniform, so that nothing can be said of quality.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from genrecall import hardware
from genrecall.bench.floor import Products, floor, rows_of
from genrecall.bench.hf import transformers_rate
from genrecall.bench.kernel_time import kernel_time
from genrecall.bench.load import highest_rate, open_loop, saturated
from genrecall.bench.shapes import random_model, shape_of
from genrecall.engine.config import EngineConfig, Parallel
from genrecall.engine.engine import Engine
from genrecall.engine.following import LeadingRunner
from genrecall.engine.host.request import Request
from genrecall.errors import ConfigError
from genrecall.hardware import pick_device
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from genrecall.telemetry import log

PRECISIONS = {
    "bf16": ("bfloat16", "plain"),
    "fp8": ("bfloat16", "fp8"),
    "int8": ("auto", "int8"),
    "fp32": ("float32", "plain"),
}
_MOST_ROWS = 4096
_COMPARED = 32
"""Prompts whose lists are compared between one rank and several."""


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """What is measured; every beam with every precision is a point.

    Attributes:
        shape: of the model, see ``shapes``.
        beams: W; all beams come back.
        input: tokens a prompt.
        levels, codes: of the SID space.
        catalog_items: random SIDs.
        precisions: of ``PRECISIONS``.
        rate: requests per second of an open loop; None: none is run.
        slo_ms: search the highest rate whose p99 keeps this; None: no search.
        versus_hf: measure transformers' search, too.
        batches: sizes that are tried, for the floor and for the engine.
        seconds: of each load.
        alone: measure one request alone.
        profile: GPU time by kernel.
        forced: see ``EngineConfig``.
        device: ``auto``, ``cpu``, ``cuda``.
        ranks: devices that the model is spread over; with more than one, every point is measured on one first.
        all_reduce: see ``Parallel``.
        seed: of everything.
    """

    shape: str = "small"
    beams: tuple[int, ...] = (50,)
    input: int = 150
    levels: int = 4
    codes: int = 256
    catalog_items: int = 100_000
    precisions: tuple[str, ...] = ("fp32",)
    rate: float | None = None
    slo_ms: float | None = None
    versus_hf: bool = False
    batches: tuple[int, ...] = (8, 16, 32)
    seconds: float = 3.0
    alone: bool = True
    profile: bool = False
    forced: str = "run"
    device: str = "auto"
    ranks: int = 1
    all_reduce: str = "library"
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.precisions if name not in PRECISIONS]
        if unknown or not self.beams or min(*self.beams, self.input, self.levels, self.codes, *self.batches) < 1:
            raise ConfigError(
                "this cannot be measured",
                seen=f"precisions={self.precisions}, beams={self.beams}, input={self.input}, batches={self.batches}",
                allowed=f"precisions of {', '.join(PRECISIONS)}; positive sizes",
                fix="correct the options",
            )


def measure(bench: EngineBench, told: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """All points; ``told`` hears of each as soon as it is measured."""
    device = pick_device(bench.device)
    space = SidSpace.uniform(bench.levels, bench.codes)
    rng = np.random.default_rng(bench.seed)
    trie = Trie.build(space, rng.integers(0, bench.codes, (bench.catalog_items, bench.levels), dtype=np.int32))
    points = []
    for precision in bench.precisions:
        alone: dict[int, dict[str, Any]] = {}
        for ranks in dict.fromkeys((1, bench.ranks)):
            for point in _points(bench, precision, device, trie, ranks, alone):
                points.append(point)
                if told:
                    told(point)
    for point in points:
        del point["lists"]
    return {"config": asdict(bench), "hardware": hardware.describe(), "device": str(device), "points": points}


def _points(
    bench: EngineBench, precision: str, device: torch.device, trie: Trie, ranks: int, alone: dict[int, dict[str, Any]]
) -> Any:
    """Points of one precision on one rank or several: one engine, all beams; ``alone``: those of one rank, by beam."""
    shape, space = shape_of(bench.shape), trie.space
    rng = np.random.default_rng(bench.seed)
    dtype, weights = PRECISIONS[precision]
    made = torch.float32 if dtype == "float32" or device.type == "cpu" else torch.bfloat16
    model = random_model(shape, space.num_tokens, device=device, dtype=made, seed=bench.seed)
    tokens = [shape.words + space.offset(level) + np.arange(size) for level, size in enumerate(space.codes)]
    theirs = {}
    prompts = rng.integers(0, shape.words, (4096, bench.input)).tolist()
    if bench.versus_hf and ranks == 1:
        for beam in bench.beams:
            theirs[beam] = transformers_rate(model, prompts[0], trie, tokens, beam)
    config = EngineConfig(
        dtype=dtype, weights=weights, forced=bench.forced, device=bench.device, max_rows=_MOST_ROWS,
        parallel=Parallel(ranks=ranks, all_reduce=bench.all_reduce if ranks > 1 else "library"),
    )  # fmt: skip
    engine = Engine(model, trie, tokens, config)
    parameters = model.num_parameters()
    del model
    gc.collect()
    products = Products(shape.part(ranks), weights, device=device, dtype=made)
    for beam in bench.beams:
        rows = rows_of(bench.input, beam, space.codes)
        sizes = [size for size in bench.batches if size * max(rows[1:]) <= _MOST_ROWS] or [1]
        least = floor(products, rows, sizes)
        point: dict[str, Any] = {
            "precision": precision,
            "ranks": ranks,
            "beam": beam,
            "rows": rows,
            "parameters": parameters,
            "floor": asdict(least),
        }
        point |= _engine(bench, engine, beam, prompts, sizes, device)
        point["share_of_floor"] = point["requests_per_s"] / least.requests_per_s
        if "alone_ms" in point:
            point["alone_over_floor"] = point["alone_ms"] / (1e3 * least.alone_s)
        point["lists"] = [answer.sids for answer in engine.generate(_asked(prompts[:_COMPARED], beam))]
        if isinstance(engine.loop.runner, LeadingRunner):
            point["equal_on_every_rank"] = engine.loop.runner.compare()
            point["versus_one_rank"] = _versus(point, alone[beam])
        alone.setdefault(beam, point)
        if beam in theirs:
            point["transformers_requests_per_s"] = theirs[beam]
            point["ratio"] = point["requests_per_s"] / theirs[beam]
        rate, share = point["requests_per_s"], point["share_of_floor"]
        log(f"{precision} W={beam}, {ranks} ranks: {rate:.1f} requests/s, {share:.1%} of floor")
        yield point
    engine.close()


def _asked(prompts: Sequence[list[int]], beam: int) -> list[Request]:
    return [Request(tokens=tuple(prompt), beam=beam) for prompt in prompts]


def _versus(point: dict[str, Any], alone: dict[str, Any]) -> dict[str, float]:
    """A point of several ranks beside the same one of one rank."""
    both = list(zip(point["lists"], alone["lists"], strict=True))
    found = {
        "requests_per_s": point["requests_per_s"] / alone["requests_per_s"],
        "equal_lists": sum(ours == theirs for ours, theirs in both) / len(both),
        "shared_sids": float(np.mean([len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in both])),
    }
    return found | ({"alone_ms": point["alone_ms"] / alone["alone_ms"]} if "alone_ms" in point else {})


def _engine(
    bench: EngineBench,
    engine: Engine,
    beam: int,
    prompts: Sequence[list[int]],
    sizes: Sequence[int],
    device: torch.device,
) -> dict[str, Any]:
    """The engine's own figures at one beam."""

    def make(number: int) -> Request:
        return Request(tokens=tuple(prompts[number % len(prompts)]), beam=beam)

    scheduler = engine.loop.scheduler
    # Open loops meet batches of every size up to the largest, and on a GPU each is a graph of its own.
    open_loops = bench.alone or bench.rate is not None or bench.slo_ms is not None
    batches = range(1, max(sizes) + 1) if open_loops and device.type == "cuda" else sizes
    found: dict[str, Any] = {"warm_up_s": engine.warm_up([make(0)], batches=tuple(batches))}
    rates = {}
    for size in sizes:
        scheduler.limits = replace(scheduler.limits, requests=size)
        rates[size] = saturated(engine, make, outstanding=3 * size, seconds=bench.seconds)
    best = max(rates, key=lambda size: rates[size])
    scheduler.limits = replace(scheduler.limits, requests=best)
    found |= {"requests_per_s": rates[best], "batch": best, "by_batch": rates}
    if bench.alone:
        # Not one after the other without a pause: a lone user does not keep the device warm either.
        found["alone_ms"] = open_loop(engine, make, rate=10.0, seconds=min(bench.seconds, 3.0)).p50_ms
    if bench.rate is not None:
        found["open_loop"] = asdict(open_loop(engine, make, rate=bench.rate, seconds=bench.seconds))
    if bench.slo_ms is not None:
        best_rate, tried = highest_rate(
            engine, make, slo_ms=bench.slo_ms, ceiling=rates[best], seconds=bench.seconds, probes=5
        )
        found["slo"] = None if best_rate is None else asdict(best_rate)
        found["slo_probes"] = [asdict(one) for one in tried]
    if bench.profile and device.type == "cuda":
        found["gpu_time"] = kernel_time(lambda: engine.generate([make(number) for number in range(4 * best)]))
    if device.type == "cuda":
        found["memory_gb"] = {
            "allocated": torch.cuda.memory_allocated(device) / 1e9,
            "prompts": engine.loop.runner.decoder.memory.nbytes / 1e9,
            "suffixes": engine.loop.runner.decoder.suffix.nbytes / 1e9,
            "trie": engine.loop.runner.catalog.nbytes / 1e9,
        }
    graphs = engine.loop.runner.graphs
    found["graphs"] = {"captured": graphs.captured, "replayed": graphs.replayed, "eager": graphs.eager}
    return found
