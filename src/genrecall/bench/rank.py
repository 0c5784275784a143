"""What ranking costs beside recall, in one process as the worker runs them; and lookups of tables larger than a GPU.

    cost = 1 − (requests/s of recall and rank) / (requests/s of recall alone),    both in one case, in turn

A request is recalled by the engine; its state and its beams' scores go to the ranking desk of the service; candidates
that no beam visited are scored by the engine; then one forward of the ranker orders all of them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from genrecall import hardware
from genrecall.bench.engine import run_cases
from genrecall.bench.load import Ask, Latency, arriving, highest_rate, saturated_by
from genrecall.bench.lookups import lookups
from genrecall.bench.rank_pass import Pass
from genrecall.bench.ranker import LARGE, Sparse, random_ranker
from genrecall.bench.rig import PRECISIONS, Rig, Setup
from genrecall.bench.suites import Case
from genrecall.errors import ConfigError
from genrecall.rank.columns import joined
from genrecall.rank.score import Ranker

_SAME = ("shape", "precision", "beam", "candidates", "input", "levels", "codes", "catalog_items", "table_rows", "seed")


@dataclass(frozen=True, kw_only=True)
class RankBench:
    """What is measured.

    Attributes:
        shape, precision, input, levels, codes, catalog_items: as of the engine's benchmark.
        beam: W. SIDs own as many items each as it takes to have ``candidates`` from W beams.
        candidates: of a request.
        unvisited: so many of them that no beam visited; each is measured, the first one in the open loop, too.
        table_rows: of the large table, 16 wide in float16.
        hosted: whether it lies in host memory behind a cache while requests are ranked.
        cached: shares of it that caches hold, for the lookups.
        exponents: of the power laws that looked-up rows follow.
        lookups: of a batch.
        batches: sizes of the engine's batches that are tried.
        seconds: of each load.
        slo_ms, probes: of the open loop: p99, and rates that a search tries.
        device, seed: of everything.
    """

    shape: str = "small"
    precision: str = "fp32"
    beam: int = 300
    candidates: int = 1000
    unvisited: tuple[int, ...] = (0, 100, 700)
    input: tuple[int, int] = (150, 150)
    levels: int = 4
    codes: int = 256
    catalog_items: int = 100_000
    table_rows: int = 100_000_000
    hosted: bool = True
    cached: tuple[float, ...] = (0.005, 0.02, 0.05)
    exponents: tuple[float, ...] = (0.8, 1.05)
    lookups: int = 16_384
    batches: tuple[int, ...] = (8, 16)
    seconds: float = 4.0
    slo_ms: float = 100.0
    probes: int = 5
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.beam, self.table_rows, self.lookups, *self.batches, self.probes, self.catalog_items)
        if (
            self.precision not in PRECISIONS
            or min(sizes) < 1
            or not self.unvisited
            or not 0 <= min(self.unvisited) <= max(self.unvisited) < self.candidates
            or not all(0 < share <= 1 for share in self.cached)
        ):
            raise ConfigError(
                "this cannot be measured",
                seen=f"precision={self.precision}, beam={self.beam}, candidates={self.candidates}, "
                f"unvisited={self.unvisited}, cached={self.cached}",
                allowed=f"a precision of {', '.join(PRECISIONS)}; positive sizes; fewer unvisited candidates than "
                "candidates; shares above 0 and up to 1",
                fix="correct the options",
            )

    @property
    def torch_device(self) -> torch.device:
        """Resolved."""
        return hardware.pick_device(self.device)

    @property
    def owners(self) -> int:
        """Items of a SID."""
        return -(-self.candidates // self.beam)


def measure(
    bench: RankBench, out: Path | None = None, told: Callable[[str, dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Run all cases; arguments and errors as of the engine's ``measure``."""
    return run_cases(_cases(bench), bench, _SAME, out, told)


def _cases(bench: RankBench) -> Iterator[Case]:
    for exponent in bench.exponents:
        yield Case(name=f"lookups, power law {exponent:g}", setup=None, run=partial(_lookups, bench, exponent))
    setup = Setup(
        shape=bench.shape, precision=bench.precision, levels=bench.levels, codes=bench.codes, items=bench.catalog_items
    )
    ranker = cache(partial(_ranker, bench))
    yield Case(name="saturated", setup=setup, run=lambda rig: _saturated(bench, rig, ranker(rig)))
    yield Case(name="open loop", setup=setup, run=lambda rig: _open_loop(bench, rig, ranker(rig)))


def _lookups(bench: RankBench, exponent: float, _: None) -> dict[str, Any]:
    return lookups(
        bench.table_rows, bench.cached, exponent, bench.lookups, bench.torch_device, bench.seconds, bench.seed
    )


def _ranker(bench: RankBench, rig: Rig) -> Ranker:
    room = bench.table_rows * 16 * 2 // 4 if bench.hosted else None
    items = len(rig.trie.leaves) * bench.owners
    sparse = Sparse(rows=bench.table_rows, room=room)
    return random_ranker(items, rig.engine.loop.runner.width, sparse, rig.device, bench.seed)


def _saturated(bench: RankBench, rig: Rig, ranker: Ranker) -> dict[str, Any]:
    """Recall alone, then with ranks, then recall again: devices do not keep one speed."""
    sizes = rig.sizes(bench.batches, min(bench.beam, max(rig.rows(1, bench.beam))))
    alone = rig.saturated(rig.maker(bench.beam, *bench.input), sizes, bench.seconds / 2)
    _warmed(bench, rig)
    rig.limit(int(alone["batch"]))
    outstanding = 3 * int(alone["batch"])
    with Pass(bench, rig, ranker) as one:

        def rate(ask: Ask) -> float:
            one.settle(ask, outstanding, bench.seconds / 4)
            return one.run(saturated_by(ask, outstanding=outstanding, seconds=bench.seconds))

        before = rate(one.recall)
        _count_anew(ranker)
        rates = {unvisited: rate(partial(one.ranked, unvisited)) for unvisited in bench.unvisited}
        after = rate(one.recall)
        recall = (before + after) / 2
        return {
            "driven_directly": alone,
            "recall_requests_per_s": [before, after],
            "ranked": {n: {"requests_per_s": found, "ratio": found / recall} for n, found in rates.items()},
            "ratio": rates[bench.unvisited[0]] / recall,
            "rank_alone_ms": {size: _rank_ms(one, size) for size in (1, int(alone["batch"]))},
            "tables": _tables(ranker),
            **rig.facts(),
        }


def _open_loop(bench: RankBench, rig: Rig, ranker: Ranker) -> dict[str, Any]:
    """The highest rates with and without ranks, each with batches that may take a third or a quarter of the p99."""
    largest = _warmed(bench, rig)
    found: dict[str, Any] = {"slo_ms": bench.slo_ms, "unvisited": bench.unvisited[0]}
    with Pass(bench, rig, ranker) as one:
        asks: dict[str, Ask] = {"recall": one.recall, "ranked": partial(one.ranked, bench.unvisited[0])}
        for name, ask in asks.items():
            one.settle(ask, 3 * largest, bench.seconds / 4)
            ceiling = one.run(saturated_by(ask, outstanding=3 * largest, seconds=bench.seconds))
            found[name] = {"saturated": ceiling, "best": None, "probes": []}
        for share in (1 / 3, 1 / 4):
            rig.limit(largest, share * bench.slo_ms / 1e3)
            for name, ask in asks.items():  # in turn, as devices do not keep one speed
                own = found[name]

                def probe(rate: float, seed: int, ask: Ask = ask) -> Latency:
                    return one.run(arriving(ask, rate=rate, seconds=bench.seconds, seed=seed))

                best, tried = highest_rate(probe, slo_ms=bench.slo_ms, ceiling=own["saturated"], probes=bench.probes)
                own["probes"] += [asdict(latency) for latency in tried]
                if best is not None and (own["best"] is None or best.rate > own["best"]["rate"]):
                    own["best"] = asdict(best)
    rates = {name: 0.0 if found[name]["best"] is None else found[name]["best"]["rate"] for name in asks}
    return {**found, "ratio": rates["ranked"] / rates["recall"] if rates["recall"] else 0.0}


def _warmed(bench: RankBench, rig: Rig) -> int:
    """Let batches of all sizes find a graph, since ranks let requests come back unevenly; the largest."""
    largest = max(bench.batches)
    rig.limit(largest)
    request = rig.maker(bench.beam, *bench.input)(0)
    rig.engine.warm_up([request], batches=(1, largest))
    rig.engine.warm_up_all(request, widest=1)
    return largest


def _rank_ms(one: Pass, requests: int) -> float:
    """Of so many requests at once, with nothing else on the device."""
    asked = joined([one.asked(number) for number in range(requests)])
    one.ranker.score(asked)
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        one.ranker.score(asked)
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times)


def _count_anew(ranker: Ranker) -> None:
    for hosted in ranker.tables.hosted.values():
        hosted.count_anew()


def _tables(ranker: Ranker) -> dict[str, Any]:
    told: dict[str, Any] = {"large": LARGE, "rows": len(ranker.tables.of(LARGE)), "hosted": list(ranker.tables.hosted)}
    large = ranker.tables.hosted.get(LARGE)
    return told if large is None else {**told, "cache_rows": large.cache_rows, "hit_rate": large.hit_rate()}


def written(found: dict[str, Any]) -> str:
    """Tables for a terminal."""
    lines = [json.dumps(found["hardware"]["gpus"]) + f" on {found['device']}"]
    for name, case in found["cases"].items():
        if "error" in case:
            lines.append(f"{name}: {case['error']}")
        elif "placements" in case:
            for placed, row in case["placements"].items():
                hits = "" if row["hit_rate"] is None else f"  {row['hit_rate']:.1%} hits of {row['cache_rows']:,} rows"
                lines.append(f"{name}, {placed}: {row['us']:,.0f} us a batch of {case['lookups']:,}{hits}")
        elif "rank_alone_ms" in case:
            recall = " and ".join(f"{rate:,.1f}" for rate in case["recall_requests_per_s"])
            lines.append(f"{name}: recall alone {recall} requests/s")
            for unvisited, row in case["ranked"].items():
                lines.append(
                    f"  ranked, {unvisited} that no beam visited: {row['requests_per_s']:,.1f} ({row['ratio']:.1%})"
                )
            alone = ", ".join(f"{size} requests {ms:.2f} ms" for size, ms in case["rank_alone_ms"].items())
            lines.append(f"  rank alone: {alone}")
        else:
            for part in ("recall", "ranked"):
                best = case[part]["best"]
                held = "none" if best is None else f"{best['rate']:,.1f} requests/s, p99 {best['p99_ms']:.0f} ms"
                lines.append(f"{name}, {part}: {held}")
            lines.append(f"  with ranks {case['ratio']:.1%} of the rate, p99 within {case['slo_ms']:.0f} ms")
    return "\n".join(lines)
