"""The engine's benchmark: named suites of cases, written to one file as they are measured.

    results = { case: figures | error },    a case that is there is not measured again

All figures of a run come from one device; a case that fails is recorded and the others go on. See ``suites``.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from genrecall import hardware
from genrecall.bench import options, ranks, replicas, scale, suites
from genrecall.bench.rig import PRECISIONS, Rig, free, make_current, open_rig
from genrecall.bench.suites import Case
from genrecall.errors import ConfigError
from genrecall.telemetry import log

SUITES: dict[str, Callable[[EngineBench], Iterator[Case]]] = {
    "table": suites.table,
    "open-loop": suites.loads,
    "options": options.options,
    "catalog": scale.catalogs,
    "long": scale.long,
    "start": scale.start,
    "ranks": ranks.ranks,
    "replicas": replicas.replicas,
}
_SAME = ("shape", "input", "levels", "codes", "catalog_items", "seed", "forced")
"""Settings that results in one file have in common."""


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """What is measured.

    Attributes:
        suites: of ``SUITES``, in this order.
        shape: of the model, see ``shapes``.
        beams: W; all beams come back.
        input: the least and the most tokens of a prompt, all lengths equally likely.
        levels, codes: of the SID space.
        catalog_items: random SIDs.
        large_items: of the large catalog.
        long_prompt: tokens.
        precisions: of ``PRECISIONS``; suites of one precision take the first.
        rate: requests per second of an open loop beside the table; None: none is run.
        slo_ms: search the highest rate whose p99 keeps this (100 in the suite open-loop); None: no search in the table.
        probes: rates that a search tries.
        versus_hf: measure transformers' search, too.
        batches: sizes that are tried, for the floor and for the engine.
        seconds: of each load.
        alone: measure one request alone.
        checked_beams: returned SIDs that are looked at one by one.
        forced: see ``EngineConfig``.
        table: a ``table.parquet`` of real SIDs, or its folder, for the case of forced levels.
        device: ``auto``, ``cpu``, ``cuda``.
        ranks, all_reduce, sequence_tokens: of the suite ranks, see ``Parallel``; every way to sum is measured.
        replicas: of the suite replicas.
        seed: of everything.
    """

    suites: tuple[str, ...] = ("table",)
    shape: str = "small"
    beams: tuple[int, ...] = (50,)
    input: tuple[int, int] = (150, 150)
    levels: int = 4
    codes: int = 256
    catalog_items: int = 100_000
    large_items: int = 10_000_000
    long_prompt: int = 4000
    precisions: tuple[str, ...] = ("fp32",)
    rate: float | None = None
    slo_ms: float | None = None
    probes: int = 5
    versus_hf: bool = False
    batches: tuple[int, ...] = (8, 16, 32)
    seconds: float = 3.0
    alone: bool = True
    checked_beams: int = 1_000_000
    forced: str = "run"
    table: Path | None = None
    device: str = "auto"
    ranks: int = 1
    all_reduce: tuple[str, ...] = ("auto",)
    sequence_tokens: int = 0
    replicas: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.precisions if name not in PRECISIONS]
        unknown += [name for name in self.suites if name not in SUITES]
        sizes = (*self.beams, *self.input, self.levels, self.codes, *self.batches, self.catalog_items, self.probes)
        if unknown or not self.beams or min(sizes) < 1 or self.input[0] > self.input[1]:
            raise ConfigError(
                "this cannot be measured",
                seen=f"suites={self.suites}, precisions={self.precisions}, beams={self.beams}, input={self.input}, "
                f"batches={self.batches}",
                allowed=f"suites of {', '.join(SUITES)}; precisions of {', '.join(PRECISIONS)}; positive sizes; inputs "
                "from the shorter to the longer",
                fix="correct the options",
            )

    @property
    def torch_device(self) -> torch.device:
        """Resolved."""
        return hardware.pick_device(self.device)


def measure(
    bench: EngineBench, out: Path | None = None, told: Callable[[str, dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Run all suites.

    Args:
        bench: what.
        out: the results' file: cases that it holds without an error are left as they are; written after every case.
        told: hears of each case as soon as it is measured.

    Raises:
        ConfigError: the file holds results of other settings or of another device.
    """
    return run_cases((case for suite in bench.suites for case in SUITES[suite](bench)), bench, _SAME, out, told)


def run_cases(
    cases: Iterable[Case],
    bench: Any,
    same: Sequence[str],
    out: Path | None,
    told: Callable[[str, dict[str, Any]], None] | None,
) -> dict[str, Any]:
    """Run cases, each on the rig that it wants.

    Args:
        cases: in their order.
        bench: settings, a dataclass with ``torch_device`` and ``seed``.
        same: those of them that results in one file must have in common.
        out, told: see ``measure``.

    Raises:
        ConfigError: as ``measure``.
    """
    hardware.spare_workspace()
    found = _resume(bench, same, out)
    make_current(bench.torch_device)
    rig: Rig | None = None
    for case in cases:
        if "error" not in found["cases"].get(case.name, {"error": "not measured yet"}):
            log(f"{case.name}: measured before")
            continue
        started = time.perf_counter()
        try:
            if rig is not None and rig.setup != case.setup:
                rig.close()
                rig = None
                free()
            if case.setup is not None and rig is None:
                rig = open_rig(case.setup, bench.torch_device, bench.seed)
            if rig is not None:
                rig.limit(None)
            figures = json.loads(json.dumps(case.run(rig)))  # as they will be read again
            if case.versus is not None:
                figures |= case.versus(figures, found["cases"])
        except Exception as error:
            # Recorded with its reason, and the run ends with a failure: the other cases' figures are worth having.
            figures = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc(limit=-3)}
            if rig is not None:
                rig.close()
            rig = None
            free()
        figures["took_s"] = time.perf_counter() - started
        found["cases"][case.name] = figures
        _write(found, out)
        log(f"{case.name}: {figures.get('error') or told_of(figures)} ({figures['took_s']:.0f} s)")
        if told:
            told(case.name, figures)
    return found


def failed(found: dict[str, Any]) -> list[str]:
    """Cases that have an error in place of figures."""
    return [name for name, figures in found["cases"].items() if "error" in figures]


def told_of(figures: dict[str, Any]) -> str:
    """The figures that a line has room for."""
    known = {
        "requests_per_s": "{:.1f} requests/s", "share_of_floor": "{:.0%} of the floor",
        "share_of_rested_floor": "{:.0%} of that of a rested device", "ratio": "{:.2f} of the other",
        "alone_ms": "{:.1f} ms alone", "slo_of_saturated": "{:.0%} of it within the objective",
        "returned": "{:,} SIDs, all valid and distinct", "times_one": "{:.2f} times one",
    }  # fmt: skip
    told = [text.format(figures[name]) for name, text in known.items() if name in figures]
    if versus := figures.get("versus_one_rank"):
        told += [
            f"{versus[name]:.2f} of one rank's {name}" for name in ("alone_ms", "requests_per_s") if name in versus
        ]
    return ", ".join(told) or "measured"


def _resume(bench: Any, same: Sequence[str], out: Path | None) -> dict[str, Any]:
    config = json.loads(json.dumps(asdict(bench), default=str))
    machine = hardware.describe()
    fresh = {"config": config, "hardware": machine, "device": str(bench.torch_device), "cases": {}}
    if out is None or not out.exists():
        return fresh
    found = json.loads(out.read_text(encoding="utf-8"))
    before = {name: found["config"][name] for name in same} | {"gpus": found["hardware"]["gpus"]}
    now = {name: config[name] for name in same} | {"gpus": machine["gpus"]}
    if before != now:
        raise ConfigError(
            f"{out} holds results of something else", seen=f"{before}", allowed=f"{now}",
            fix="write to another file, or delete this one",
        )  # fmt: skip
    return {**fresh, "cases": found["cases"]}


def _write(found: dict[str, Any], out: Path | None) -> None:
    if out is None:
        return
    temporary = out.with_name(f".{out.name}.writing")
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out)
