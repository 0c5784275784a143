"""Batches of rows out of a large table: whole on the device, in host memory, and behind caches of several sizes.

P(row of place r) ∝ (r + 1)^-s;    time of a batch once the cache has seen enough of them
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from genrecall.bench.ranker import large_table
from genrecall.rank.hosted import HostedTable

WIDTH = 16
_TIMED, _FREE, _HELD_CYCLES = 32, 1.25, 1_000_000


def lookups(
    rows: int, cached: Sequence[float], exponent: float, count: int, device: torch.device, seconds: float, seed: int
) -> dict[str, Any]:
    """Microseconds of a batch and hit rates, by where the rows lie; rows are the same everywhere, and compared.

    Args:
        rows: of the table, WIDTH wide in float16.
        cached: shares of them that caches hold.
        exponent: s.
        count: lookups of a batch.
        device: that wants them.
        seconds: at most, until a cache counts as warm.
        seed: of table and lookups.
    """
    table = large_table(rows, WIDTH, device, seed)
    draw = Drawn(rows, exponent, count, device, seed)
    timed = [draw() for _ in range(_TIMED)]
    found: dict[str, Any] = {}
    near: torch.Tensor | None = None
    if device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > _FREE * table.nbytes:
        near = table.to(device)
        found["on the device"] = {"us": _us(lambda at: F.embedding(at, near), timed), "hit_rate": None}
    row_bytes = table.shape[1] * table.element_size()
    for share in (0.0, *cached):
        hosted = HostedTable(table, device, int(share * rows * row_bytes))
        warm = warmed(hosted, draw, seconds) if share else 0
        hosted.count_anew()
        us = _us(hosted.look, timed)
        hits = hosted.hit_rate()
        expected = table[timed[-1].cpu()] if near is None else F.embedding(timed[-1], near).cpu()
        assert torch.equal(hosted.look(timed[-1]).cpu(), expected), "a cache changes no row"
        name = f"host, cache of {share:.1%}" if share else "host, no cache"
        found[name] = {"us": us, "hit_rate": hits if share else None, "cache_rows": hosted.cache_rows, "warm": warm}
    return {
        "rows": rows, "width": WIDTH, "table_gb": table.nbytes / 1e9, "exponent": exponent, "lookups": count,
        "distinct_share": statistics.mean(len(torch.unique(one)) / count for one in timed), "placements": found,
    }  # fmt: skip


class Drawn:
    """Batches of rows by a power law; neighbours in popularity lie anywhere in the table.

    Args:
        rows: of the table.
        exponent: s.
        count: rows of a batch.
        device: of them.
        seed: of all batches.
    """

    def __init__(self, rows: int, exponent: float, count: int, device: torch.device, seed: int) -> None:
        self.rows, self.power, self.count, self.device = rows, 1 - exponent, count, device
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self) -> torch.Tensor:
        """int64 (count,), the next batch."""
        u = torch.rand(self.count, generator=self.generator, device=self.device, dtype=torch.float64)
        if self.power == 0:
            places = (self.rows + 1.0) ** u
        else:
            places = (((self.rows + 1.0) ** self.power - 1) * u + 1) ** (1 / self.power)
        place = (places.long() - 1).clamp(max=self.rows - 1)
        return place * 2_654_435_761 % self.rows


def warmed(hosted: HostedTable, draw: Callable[[], torch.Tensor], seconds: float) -> int:
    """Batches until the time is over, or until as many rows were looked up as eight caches hold."""
    begun, batches, enough = time.perf_counter(), 0, 8 * hosted.cache_rows
    looked = 0
    while looked < enough and time.perf_counter() - begun < seconds:
        at = draw()
        hosted.look(at)
        batches, looked = batches + 1, looked + len(at)
        if batches % 64 == 0 and at.is_cuda:
            torch.cuda.synchronize(at.device)
    return batches


def _us(look: Callable[[torch.Tensor], torch.Tensor], timed: Sequence[torch.Tensor]) -> float:
    """Median microseconds of a batch that was not looked up before; on a GPU by its own clock."""
    look(timed[0])
    times = []
    for at in timed:
        if at.is_cuda:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(_HELD_CYCLES)  # until everything is launched: the host's own time is not the lookup's
            start.record()
            look(at)
            end.record()
            end.synchronize()
            times.append(1e3 * start.elapsed_time(end))
        else:
            begun = time.perf_counter()
            look(at)
            times.append(1e6 * (time.perf_counter() - begun))
    return statistics.median(times)
