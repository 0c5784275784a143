"""What cases of the engine's benchmark run on: one engine with random weights, and the floor of its linear layers.

    share of the floor = (requests/s of the saturated engine) / (requests/s of the linear layers alone)

Weights are true to shape, so that speed is; scores are nearly uniform, so that nothing can be said of quality.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from genrecall.bench.floor import Floor, Products, floor, rows_of
from genrecall.bench.kernel_time import kernel_time
from genrecall.bench.load import Closed, saturated
from genrecall.bench.shapes import random_model, random_trunk, shape_of
from genrecall.engine.config import Budgets, EngineConfig, Parallel
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from genrecall.sid.table import FILE

PRECISIONS = {
    "bf16": ("bfloat16", "plain"),
    "fp8": ("bfloat16", "fp8"),
    "int8": ("auto", "int8"),
    "fp32": ("float32", "plain"),
}
MOST_ROWS = 8192
_SETTLES = 4
Make = Callable[[int], Request]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What an engine is opened with; cases with equal ones share it.

    Attributes:
        shape: see ``shapes``; ``trunk:SHAPE`` for an item trunk of these sizes with two depth layers.
        precision: of ``PRECISIONS``.
        levels, codes: of the SID space.
        items: of the catalog; random SIDs.
        forced: see ``EngineConfig``.
        graphs: see ``Budgets``.
        kv_tokens, host_kv_tokens: see ``Budgets``.
        table: a ``table.parquet`` of SIDs, or the folder that holds one, in place of levels, codes and items.
        ranks, all_reduce, sequence_tokens: see ``Parallel``.
    """

    shape: str
    precision: str
    levels: int
    codes: int
    items: int
    forced: str = "run"
    graphs: int = Budgets.graphs
    kv_tokens: int | None = None
    host_kv_tokens: int = 0
    table: str | None = None
    ranks: int = 1
    all_reduce: str = "auto"
    sequence_tokens: int = 0


class Rig:
    """An open engine.

    Args:
        setup: what it is.
        trie: its catalog; of the setup's space.
        device: where.
        seed: of weights and prompts.
    """

    def __init__(self, setup: Setup, trie: Trie, device: torch.device, seed: int) -> None:
        self.setup, self.device, self.trie, self._seed = setup, device, trie, seed
        self.rng = np.random.default_rng(seed)
        dtype, weights = PRECISIONS[setup.precision]
        self._dtype = torch.float32 if dtype == "float32" or device.type == "cpu" else torch.bfloat16
        self.space: SidSpace = trie.space
        started = time.perf_counter()
        kind, _, of = setup.shape.rpartition(":")
        self.shape = shape_of(of)
        if kind == "trunk":
            model: Any = random_trunk(self.shape, trie, dtype=self._dtype, seed=seed)
            tokens = [self.space.offset(level) + np.arange(size) for level, size in enumerate(self.space.codes)]
            self.words = model.num_items
        else:
            model = random_model(self.shape, self.space.num_tokens, device=device, dtype=self._dtype, seed=seed)
            tokens = self.sid_tokens()
            self.words = self.shape.words
        self.parameters = model.num_parameters()
        made = time.perf_counter()
        config = EngineConfig(
            dtype=dtype, weights=weights, forced=setup.forced, device=str(device), max_rows=self.most_rows(kind),
            budgets=Budgets(
                graphs=setup.graphs, catalog_headroom=1.1, kv_tokens=setup.kv_tokens,
                host_kv_tokens=setup.host_kv_tokens,
            ),
            parallel=Parallel(
                ranks=setup.ranks, all_reduce=setup.all_reduce, sequence_tokens=setup.sequence_tokens
            ),
        )  # fmt: skip
        self.engine = Engine(model, trie, tokens, config)
        self.opening_s = {"model": made - started, "engine": time.perf_counter() - made}
        self._limits = self.engine.loop.scheduler.limits
        del model
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def most_rows(self, kind: str = "") -> int:
        """Of a level of a batch."""
        return 8 * MOST_ROWS if (kind or self.setup.shape.partition(":")[0]) == "trunk" else MOST_ROWS

    def sid_tokens(self) -> list[np.ndarray]:
        """Of a language model: SID tokens follow the words."""
        space = self.space
        return [self.shape.words + space.offset(level) + np.arange(size) for level, size in enumerate(space.codes)]

    @cached_property
    def products(self) -> Products:
        """The linear layers alone."""
        part = self.shape.part(self.setup.ranks)
        return Products(part, PRECISIONS[self.setup.precision][1], device=self.device, dtype=self._dtype)

    def close(self) -> None:
        """Free what other ranks hold."""
        self.engine.close()

    def prompts(self, least: int, most: int, count: int = 1024) -> list[tuple[int, ...]]:
        """Random prompts of lengths that are equally likely."""
        lengths = self.rng.integers(least, most + 1, count)
        return [tuple(self.rng.integers(0, self.words, length).tolist()) for length in lengths]

    def maker(self, beam: int | tuple[int, ...], least: int, most: int | None = None, **more: Any) -> Make:
        """Requests of one width, without users."""
        prompts = self.prompts(least, most or least)
        return lambda number: Request(tokens=prompts[number % len(prompts)], beam=beam, **more)

    def sizes(self, batches: Sequence[int], widest: int) -> list[int]:
        """Batch sizes whose rows fit."""
        return [size for size in batches if size * widest <= self.most_rows()] or [1]

    def limit(self, requests: int | None, seconds: float | None = None) -> None:
        """The most requests of a batch, and what it may take; None: as the engine was opened."""
        limits = self._limits if requests is None else replace(self._limits, requests=requests)
        self.engine.loop.scheduler.limits = limits if seconds is None else replace(limits, seconds=seconds)

    def saturated(self, make: Make, batches: Sequence[int], seconds: float, *, mixed: bool = False) -> dict[str, Any]:
        """The best of several batch sizes, each once nothing is compiled or captured any more; ``mixed``: prompts
        are of many lengths.
        """
        rates: dict[int, Closed] = {}
        for size in batches:
            self.limit(size)
            self.settle(make, size, seconds / 3, mixed)
            rates[size] = saturated(self.engine, make, outstanding=3 * size, seconds=seconds)
        best = max(rates, key=lambda size: rates[size].rate)
        self.limit(best)
        return {
            "requests_per_s": rates[best].rate,
            "batch": best,
            "longest_gap_ms": rates[best].longest_gap_ms,
            "by_batch": {size: found.rate for size, found in rates.items()},
        }

    def settle(self, make: Make, size: int, seconds: float, mixed: bool = False) -> None:
        """Run until the kernels and graphs of these requests are there, a few rounds at most. Prompts of ``mixed``
        lengths never stop to come in new sizes: they find those of a service.
        """
        self.engine.warm_up([make(0)], batches=(size,))
        graphs = self.engine.loop.runner.graphs
        if mixed:
            self.engine.warm_up_all(make(0), widest=1)
            saturated(self.engine, make, outstanding=3 * size, seconds=seconds)
            return
        for _ in range(_SETTLES):
            before = graphs.unusual
            with graphs.hasty():  # else what is captured late is captured while it is measured
                saturated(self.engine, make, outstanding=3 * size, seconds=seconds)
            if graphs.unusual == before:
                break

    def floor(self, rows: Sequence[int], sizes: Sequence[int], seconds: float = 0.0) -> Floor:
        """Of requests with so many rows a pass, each size for so long."""
        return floor(self.products, rows, sizes, seconds)

    def rows(self, prompt: int, beam: int) -> tuple[int, ...]:
        """Rows of one request's passes."""
        return rows_of(prompt, beam, self.space.codes)

    def gpu_time(self, make: Make, requests: int) -> dict[str, Any]:
        """By kind of kernel; empty on a CPU."""
        if self.device.type != "cuda":
            return {}
        return kernel_time(lambda: self.engine.generate([make(number) for number in range(requests)]))

    def facts(self) -> dict[str, Any]:
        """Memory and graphs."""
        runner, trie = self.engine.loop.runner, self.engine.trie
        graphs, catalog = runner.graphs, runner.catalog
        memory = {
            "prompts": runner.decoder.memory.nbytes / 1e9,
            "suffixes": runner.decoder.suffix.nbytes / 1e9,
            "trie": catalog.trie_bytes / 1e9,
            "filters": catalog.filter_bytes / 1e9,
        }
        if self.device.type == "cuda":
            memory["allocated"] = torch.cuda.memory_allocated(self.device) / 1e9
            memory["reserved"] = torch.cuda.memory_reserved(self.device) / 1e9
        return {
            "memory_gb": memory,
            "trie_bytes_an_item": catalog.trie_bytes / max(trie.num_items, 1),
            "graphs": {"captured": graphs.captured, "replayed": graphs.replayed, "eager": graphs.eager},
            "parameters": self.parameters,
            "opening_s": self.opening_s,
            "setup": asdict(self.setup),
        }


def make_current(device: torch.device) -> None:
    """Floors and profiles launch, capture and wait on the current device, whichever is measured."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def open_rig(setup: Setup, device: torch.device, seed: int) -> Rig:
    """Make catalog, model and engine."""
    return Rig(setup, catalog_of(setup, seed), device, seed)


def free() -> None:
    """Give back what a rig that nobody holds any more had, also what warm engines had frozen."""
    gc.unfreeze()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@lru_cache(maxsize=3)
def random_catalog(levels: int, codes: int, items: int, seed: int) -> Trie:
    """Uniform SIDs."""
    rng = np.random.default_rng(seed)
    return Trie.build(SidSpace.uniform(levels, codes), rng.integers(0, codes, (items, levels), dtype=np.int32))


def catalog_of(setup: Setup, seed: int) -> Trie:
    """The trie of a setup."""
    if setup.table is None:
        return random_catalog(setup.levels, setup.codes, setup.items, seed)
    file = Path(setup.table)
    sids = np.array(pq.read_table(file / FILE if file.is_dir() else file)["sid"].to_pylist(), dtype=np.int32)
    return Trie.build(SidSpace(tuple((sids.max(axis=0) + 1).tolist())), sids)
