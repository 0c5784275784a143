"""What the TensorFlow operators cost beside an identity graph of the same inputs.

    overhead = p50(graph with the operator) − p50(identity graph),    throughput = calls/s of T threads
    of_identity → cpu(identity graph) / cpu(graph with the operator and the engine)       where all cores are busy

Behind ``GenRecall`` stands an engine that computes nothing (``null_engine.cc``), so that its figure is the whole way to
an engine and back. Graphs take turns, call by call or in short rounds, because a machine's other load comes and goes.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.errors import DependencyError
from genrecall.hardware import describe
from genrecall.telemetry import log


@dataclass(frozen=True, kw_only=True)
class GraphBench:
    """What is measured.

    Attributes:
        items: of the catalog.
        history: events a row.
        k: items a row.
        threads: that call at a time.
        rounds, round_s: of each graph with all threads; figures are medians over the rounds.
    """

    items: int = 10_000
    history: int = 50
    k: int = 50
    threads: int = 4
    rounds: int = 40
    round_s: float = 0.2


def measure(bench: GraphBench) -> dict[str, Any]:
    """Compile, run, compare.

    Raises:
        DependencyError: no TensorFlow, or no C++ compiler.
    """
    from genrecall.graph import library
    from genrecall.graph.runtime import tensorflow

    begun, tf = time.monotonic(), tensorflow()
    with tempfile.TemporaryDirectory() as fresh:
        compile_s = _compile_s(Path(fresh))
        library.load()
        with _null_engine(Path(fresh), bench) as engine:
            graphs = _graphs(bench, str(engine.socket))
            log(f"measuring {len(graphs)} graphs, {bench.rounds} rounds of {bench.round_s:g} s each")
            found = _rounds(graphs, bench, engine.cpu_s)
    return {
        "hardware": describe(),
        "tensorflow": tf.version.VERSION,
        "compile_s": round(compile_s, 1),
        "settings": {name: getattr(bench, name) for name in ("items", "history", "k", "threads", "rounds", "round_s")},
        "graphs": found,
        "wall_s": round(time.monotonic() - begun, 1),
    }


def _rounds(
    graphs: dict[str, Callable[[], object]], bench: GraphBench, engine_s: Callable[[], float]
) -> dict[str, dict[str, float]]:
    alone: dict[str, list[float]] = {name: [] for name in graphs}
    together: dict[str, list[float]] = {name: [] for name in graphs}
    spent: dict[str, list[float]] = {name: [] for name in graphs}
    until = time.perf_counter() + bench.rounds * bench.round_s
    while time.perf_counter() < until:
        for name, call in graphs.items():
            begun = time.perf_counter()
            call()
            alone[name].append((time.perf_counter() - begun) * 1e6)
    for _ in range(bench.rounds):
        for name, call in graphs.items():
            before, begun = time.process_time() + engine_s(), time.perf_counter()
            rate = _per_s(call, bench.threads, bench.round_s)
            calls = rate * (time.perf_counter() - begun)
            together[name].append(rate)
            spent[name].append(1e6 * (time.process_time() + engine_s() - before) / calls)
    p50 = {name: statistics.median(times) for name, times in alone.items()}
    cpu = {name: statistics.median(times) for name, times in spent.items()}
    return {
        name: {
            "p50_us": round(p50[name], 1),
            "overhead_p50_us": round(p50[name] - p50["identity"], 1),
            "per_s": round(statistics.median(together[name]), 1),
            # Each round is compared with the identity graph's beside it.
            "of_identity": round(
                statistics.median(own / other for own, other in zip(together[name], together["identity"], strict=True)),
                3,
            ),
            "cpu_us": round(cpu[name], 1),
            "of_identity_by_cpu": round(cpu["identity"] / cpu[name], 3),
        }
        for name in graphs
    }


def _per_s(call: Callable[[], object], threads: int, seconds: float) -> float:
    done = [0] * threads
    until = time.perf_counter() + seconds

    def run(place: int) -> None:
        while time.perf_counter() < until:
            call()
            done[place] += 1

    running = [threading.Thread(target=run, args=(place,)) for place in range(threads)]
    begun = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(done) / (time.perf_counter() - begun)


def _graphs(bench: GraphBench, engine: str) -> dict[str, Callable[[], object]]:
    """Calls by name, each of one row of the same inputs."""
    from genrecall.graph.retrieval import Retrieval, tf
    from genrecall.prompt.layout import Layout

    rng, levels, codes = np.random.default_rng(0), 4, 256
    sids = np.stack([np.arange(bench.items) // codes**level % codes for level in range(levels - 1, -1, -1)], 1)
    pieces = (sids + 10 + codes * np.arange(levels)).astype(np.int32)
    graph = Retrieval(
        item_ids=[f"item-{item}" for item in range(bench.items)],
        written=["" for _ in range(bench.items)],
        sids=sids.astype(np.int32),
        counts=np.zeros(bench.items, np.int64),
        layout=Layout(head=(1,), pieces=pieces, max_items=bench.history),
        bundle="",
        beam=bench.k,
        items_per_sid=None,
        engines=[engine],
    )
    values = tf.constant(rng.integers(0, bench.items, bench.history), tf.int32)
    splits = tf.constant([0, bench.history], tf.int64)
    tokens = tf.constant(rng.integers(0, 1000, bench.history * levels), tf.int32)
    token_splits = tf.constant([0, bench.history * levels], tf.int64)
    vector = [tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)]

    @tf.function(input_signature=vector)
    def identity(values: Any, splits: Any) -> Any:
        return tf.identity(values), tf.identity(splits)

    @tf.function(input_signature=vector)
    def sequence(values: Any, splits: Any) -> Any:
        prompts = graph.prompts(tf.RaggedTensor.from_row_splits(values, splits, validate=False))
        return prompts.values, prompts.row_splits

    @tf.function(input_signature=vector)
    def recall(values: Any, splits: Any) -> Any:
        prompts = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        found = graph.recall(prompts, k=bench.k, deadline_ms=1000.0)
        return found.items, found.scores

    @tf.function(input_signature=vector)
    def both(values: Any, splits: Any) -> Any:
        items = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        found = graph.recall(graph.prompts(items), k=bench.k, deadline_ms=1000.0)
        return found.items, found.scores

    calls = {
        "identity": (identity, values, splits),
        "behavior_sequence": (sequence, values, splits),
        "gen_recall": (recall, tokens, token_splits),
        "behavior_sequence + gen_recall": (both, values, splits),
    }
    made: dict[str, Callable[[], object]] = {}
    for name, (function, *arguments) in calls.items():
        traced = function.get_concrete_function()
        made[name] = lambda traced=traced, arguments=arguments: traced(*arguments)  # type: ignore[misc]
        for _ in range(50):
            made[name]()
    answered = calls["gen_recall"][0](tokens, token_splits)[0]
    assert answered.shape == (1, bench.k), "the engine that computes nothing answers"
    assert int(answered[0, -1]) >= 0, "the engine that computes nothing answers"
    return made


def _compile_s(cache: Path) -> float:
    """Seconds to compile the operators anew, from an empty cache."""
    from genrecall.graph import library

    begun = time.monotonic()
    library.build(cache)
    return time.monotonic() - begun


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """A process that computes nothing: its socket, and the clock of its CPU time."""

    socket: Path
    clock: int

    def cpu_s(self) -> float:
        """So far."""
        return time.clock_gettime(self.clock)


@contextlib.contextmanager
def _null_engine(directory: Path, bench: GraphBench) -> Iterator[_Engine]:
    compiler = shutil.which("g++")
    if compiler is None:
        raise DependencyError("g++", extra="tf", purpose="the engine that computes nothing")
    program, socket = directory / "null_engine", directory / "engine.sock"
    with (
        resources.as_file(resources.files("genrecall.bench") / "null_engine.cc") as source,
        resources.as_file(resources.files("genrecall.graph") / "ops") as headers,
    ):
        subprocess.run([compiler, "-O2", "-std=c++17", f"-I{headers}", str(source), "-o", str(program)], check=True)
    running = subprocess.Popen([program, socket, "4", str(bench.k)], stdout=subprocess.PIPE)
    try:
        assert running.stdout is not None
        running.stdout.readline()
        yield _Engine(socket=socket, clock=~running.pid << 3 | 2)  # clock_getcpuclockid(3), which Python does not have
    finally:
        running.terminate()
        running.wait()
