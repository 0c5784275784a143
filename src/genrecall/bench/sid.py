"""Seconds and memory to turn vectors into distinct SIDs, collisions included.

The vectors are synthetic, and figures from them say nothing of quality on real items: a tree of Gaussian clusters
(levels of falling spread, as text vectors have), on axes of falling variance, float16 in a memory-mapped file.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrecall import hardware
from genrecall.sid import collisions, quality
from genrecall.sid.config import SidConfig
from genrecall.telemetry import log, progress

_CHUNK = 65_536


@dataclass(frozen=True, kw_only=True)
class SidBench:
    """One catalog of synthetic vectors, and the ways to quantise it.

    Attributes:
        items, dims: I and D.
        shapes: levels and codes of each run, for example ((4, 256), (3, 8192)).
        quantizer: its name; its settings are the defaults.
        collisions: rule.
        report: measure the quality report as well.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: of vectors and quantiser.
        directory: where the vectors are put while it runs; None takes the system's temporary directory.
    """

    items: int = 1_000_000
    dims: int = 768
    shapes: tuple[tuple[int, int], ...] = ((4, 256), (3, 8192))
    quantizer: str = "rq_vae"
    collisions: str = "reassign"
    report: bool = True
    device: str = "auto"
    seed: int = 0
    directory: Path | None = None


def measure(bench: SidBench) -> dict[str, Any]:
    """Seconds by stage, peak memory, and what came out, for each shape."""
    device = hardware.pick_device(bench.device)
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        file = Path(place) / "vectors.npy"
        start = time.perf_counter()
        write_vectors(file, bench.items, bench.dims, seed=bench.seed)
        generated = time.perf_counter() - start
        # Vectors on the device are what is measured; those in the page cache belong to nobody.
        vectors = np.load(file, mmap_mode="r")
        runs = [_run(bench, levels, codes, vectors, device) for levels, codes in bench.shapes]
    return {
        "config": {**asdict(bench), "directory": None},
        "vectors": "synthetic: a tree of Gaussian clusters",
        "hardware": hardware.describe(),
        "device": str(device),
        "generate_s": round(generated, 1),
        "runs": runs,
        "peak_rss_gb": _peak_rss_gb(),
    }


def _run(bench: SidBench, levels: int, codes: int, vectors: np.ndarray, device: torch.device) -> dict[str, Any]:
    config = SidConfig(
        levels=levels, codes=codes, quantizer=bench.quantizer, collisions=bench.collisions,  # type: ignore[arg-type]
        seed=bench.seed,
    )  # fmt: skip
    config = config.on(bench.device)
    quantizer, seconds = config.make(), dict[str, float]()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds[stage] = round(time.perf_counter() - start, 2)
        log(f"{levels} x {codes}: {stage} {seconds[stage]} s")

    with timed("fit"), progress(f"fitting {levels} x {codes}", config.steps(len(vectors))) as bar:
        quantizer.fit(vectors, seed=bench.seed, bar=bar)
    with timed("encode"):
        found = quantizer.encode(vectors)
    with timed("collisions"), progress("resolving collisions") as bar:
        sids, space = collisions.resolve(found, quantizer, vectors, config.collisions, bar=bar)
    before, after = (quality.collision_rate(quality.owners(rows)[1]) for rows in (found, sids))
    run: dict[str, Any] = {
        "levels": levels, "codes": codes, "capacity": space.capacity,
        "shared_before": before, "shared_after": after,
        "moved": float((found != sids[:, :levels]).any(1).mean()),
    }  # fmt: skip
    if bench.report:
        with timed("report"), progress("measuring the SIDs", len(vectors)) as bar:
            health = quality.report(codes=found, sids=sids, space=space, quantizer=quantizer, vectors=vectors, bar=bar)
        run |= {
            "perplexity": [round(level["perplexity"], 1) for level in health["levels"]],
            "unexplained": health["reconstruction_error"]["after"],
            "alarms": health["alarms"],
        }
    total = sum(seconds.values())
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return {**run, "seconds": seconds, "total_s": round(total, 1), "peak_gpu_gb": peak, "peak_rss_gb": _peak_rss_gb()}


def write_vectors(file: Path, items: int, dims: int, *, seed: int) -> None:
    """Write float16 (I, D) clustered vectors to a ``.npy`` file, a bounded piece at a time."""
    rng = np.random.default_rng(seed)
    spectrum = (np.arange(dims, dtype=np.float32) + 4) ** -0.5
    groups = [max(min(count, items // 4), 1) for count in (64, 2_048, 65_536)]
    centres = [rng.standard_normal((count, dims), np.float32) * spectrum for count in groups]
    # A random tree with unequal branches: some clusters hold a hundred times the items of others.
    parent = [_skewed(rng, groups[0], groups[1]), _skewed(rng, groups[1], groups[2])]
    matrix = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(items, dims))
    for low in range(0, items, _CHUNK):
        count = min(_CHUNK, items - low)
        fine = _skewed(rng, groups[2], count)
        middle = parent[1][fine]
        rows = rng.standard_normal((count, dims), np.float32) * (0.4 * spectrum)
        rows += centres[0][parent[0][middle]]
        rows += 0.8 * centres[1][middle]
        rows += 0.5 * centres[2][fine]
        matrix[low : low + count] = rows
    matrix.flush()


def _skewed(rng: np.random.Generator, groups: int, count: int) -> np.ndarray:
    """``count`` numbers below ``groups``, the small ones more often."""
    return (groups * rng.random(count) ** 2).astype(np.int64)


def _peak_rss_gb() -> float:
    """Largest resident memory of this process so far; pages of memory-mapped files count while they are mapped."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
