"""Whole models on several devices beside one of them: the suite ``replicas``.

    times_one = (sum of the rates of N engines at work together) / (rate of the first one alone)

Each engine is a process with a device of its own, as behind a gateway; on CPUs they share the cores. All are opened
first, so that those that wait hold nothing but memory while others are measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from genrecall.bench.load import saturated
from genrecall.bench.rig import Setup, make_current, open_rig
from genrecall.bench.suites import Case, setup_of
from genrecall.errors import ConfigError, DataError
from genrecall.hardware import spare_workspace

if TYPE_CHECKING:
    from genrecall.bench.engine import EngineBench


def replicas(bench: EngineBench) -> Iterator[Case]:
    """Every beam with every precision, at the first of the batch sizes.

    Raises:
        ConfigError: fewer devices than replicas, or one replica.
    """
    there = torch.cuda.device_count() if bench.torch_device.type == "cuda" else os.cpu_count() or 1
    if not 2 <= bench.replicas <= there:
        raise ConfigError(
            "so many engines cannot be set beside one", seen=f"{bench.replicas} replicas on {there} devices or cores",
            allowed=f"2 to {there}", fix="change --replicas, or make more GPUs visible",
        )  # fmt: skip
    for precision in bench.precisions:
        for beam in bench.beams:
            name = f"{precision} W={beam}, {bench.replicas} replicas"
            yield Case(name=name, setup=None, run=partial(_measured, bench, precision, beam))


def _measured(bench: EngineBench, precision: str, beam: int, _: None) -> dict[str, Any]:
    """Rates of one, two, four, … and all engines at once."""
    counts = sorted({bench.replicas, *(1 << power for power in range(bench.replicas.bit_length()))})
    with ExitStack() as ending:
        engines = [_start(bench, precision, beam, place) for place in range(bench.replicas)]
        for engine in engines:
            ending.enter_context(engine)
            ending.callback(engine.kill)
        ready = [_hear(engine) for engine in engines]
        rates = {count: _together(engines[:count]) for count in counts}
    total = {count: sum(found) for count, found in rates.items()}
    return {
        "precision": precision, "beam": beam, "replicas": bench.replicas, "batch": bench.batches[0],
        "requests_per_s": total[bench.replicas], "times_one": total[bench.replicas] / total[1],
        "times_one_by_count": {count: rate / total[1] for count, rate in total.items()},
        "rates_by_count": rates, "opening_s": [found["opening_s"] for found in ready],
        "setup": asdict(setup_of(bench, precision)),
    }  # fmt: skip


def _start(bench: EngineBench, precision: str, beam: int, place: int) -> subprocess.Popen[str]:
    cuda = bench.torch_device.type == "cuda"
    told = {
        "setup": asdict(setup_of(bench, precision)), "device": f"cuda:{place}" if cuda else "cpu", "seed": bench.seed,
        "threads": max((os.cpu_count() or 1) // bench.replicas, 1), "beam": beam, "input": bench.input,
        "batch": bench.batches[0], "seconds": bench.seconds,
    }  # fmt: skip
    command = [sys.executable, "-m", "genrecall.bench.replicas", json.dumps(told)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _together(engines: Sequence[subprocess.Popen[str]]) -> list[float]:
    for engine in engines:
        assert engine.stdin is not None, "it is a pipe"
        engine.stdin.write("go\n")
        engine.stdin.flush()
    return [_hear(engine)["requests_per_s"] for engine in engines]


def _hear(engine: subprocess.Popen[str]) -> dict[str, Any]:
    assert engine.stdout is not None, "it is a pipe"
    line = engine.stdout.readline()
    if not line:
        raise DataError(
            "an engine ended before it was measured", seen=f"status {engine.wait()}", allowed="a rate",
            fix="read what it wrote above; if its memory did not suffice, choose a smaller --shape",
        )  # fmt: skip
    heard: dict[str, Any] = json.loads(line)
    return heard


def play(told: dict[str, Any]) -> None:
    """One engine: says when it is warm, then its rate for every line that it reads."""
    device = torch.device(told["device"])
    make_current(device)
    if device.type == "cpu":
        torch.set_num_threads(told["threads"])
    rig = open_rig(Setup(**told["setup"]), device, told["seed"])
    make, batch, seconds = rig.maker(told["beam"], *told["input"]), told["batch"], told["seconds"]
    rig.limit(batch)
    rig.settle(make, batch, seconds / 3)
    print(json.dumps({"opening_s": rig.opening_s}), flush=True)
    for _ in sys.stdin:
        found = saturated(rig.engine, make, outstanding=3 * batch, seconds=seconds)
        print(json.dumps({"requests_per_s": found.rate}), flush=True)


if __name__ == "__main__":
    spare_workspace()
    play(json.loads(sys.argv[1]))
