"""Seconds of a batch: learnt from a results file by the engine's own cost model, or by arithmetic.

    seconds ≥ max( L · bytes(W) / bandwidth,  2 · P · (tokens + rows) / flops ) + 4 · H · D · layers · pairs / flops

The roofline of Williams et al. 2009, over the L passes that read all weights W (P of them). We deviate: it is no
prediction but a bound, and the plan that rests on it says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from genrecall.bench.plan.devices import DeviceRates
from genrecall.bench.shapes import Shape
from genrecall.engine.host.cost import CostModel
from genrecall.engine.host.step import Load
from genrecall.errors import ConfigError


class Cost(Protocol):
    """What a plan asks of ``CostModel``."""

    def seconds(self, load: Load) -> float:
        """Of a batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The bound, for one rank of ``ranks``; sums between ranks are not in it.

    Attributes:
        shape: of the whole model.
        ranks: that share it.
        levels: L.
        item_bytes: of a weight.
        rates: of the device.
    """

    shape: Shape
    ranks: int
    levels: int
    item_bytes: int
    rates: DeviceRates

    def seconds(self, load: Load) -> float:
        """Of a batch."""
        part, flops = self.shape.part(self.ranks), self.rates.flops
        weights = part.layers * sum(out * into for out, into in part.matrices)
        bytes_s = self.levels * weights * self.item_bytes / self.rates.bytes_per_s
        product_s = 2 * weights * (load.tokens + load.rows) / flops
        attention_s = 4 * part.heads * part.head_dim * part.layers * load.pairs / flops
        return max(bytes_s, product_s) + attention_s


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a file of ``genrecall bench engine --json`` says.

    Attributes:
        cost: fitted to its batches.
        device: that they ran on.
        probes: open loops, each with ``beam``, ``input``, ``rate``, ``p99_ms`` and ``batch``.
        batches: how many were fitted.
    """

    cost: CostModel
    device: str
    probes: tuple[Mapping[str, Any], ...]
    batches: int


def read_measured(path: Path, *, shape: str, precision: str, ranks: int) -> Measured:
    """Fit the engine's cost model to the batches of a results file.

    Raises:
        ConfigError: the file measured something else, or too few batches to learn from.
    """
    found = _read(path)
    cases = [figures for figures in found["cases"].values() if {"by_batch", "precision", "setup"} <= figures.keys()]
    points = [*cases, *(figures["one_rank"] for figures in cases if "one_rank" in figures)]
    points = [point for point in points if point["setup"]["shape"] == found["config"]["shape"]]
    fitting = [p for p in points if (p["precision"], p["setup"]["ranks"]) == (precision, ranks)]
    if found["config"]["shape"] != shape or not fitting:
        seen = sorted({(p["precision"], p["setup"]["ranks"]) for p in points})
        raise ConfigError(
            "the results file measured something else",
            seen=f"{found['config']['shape']}: " + ", ".join(f"{name} on {n} ranks" for name, n in seen),
            allowed=f"{shape}, {precision} on {ranks} ranks",
            fix="measure it (genrecall bench engine --json), or plan for what was measured",
        )
    cost, batches = CostModel(), 0
    for point in fitting:
        tokens, *rows = point["rows"]
        one = Load.of(tokens, 0, (*rows, point["beam"]))
        timed = [(int(size), int(size) / rate) for size, rate in point["by_batch"].items()]
        if "alone_ms" in point:
            timed.append((1, point["alone_ms"] / 1e3))
        for size, seconds in timed:
            cost.observe(replace(one, **{name: size * value for name, value in vars(one).items()}), seconds)
            batches += 1
    if not cost.ready:
        raise ConfigError(
            "the results file holds too few batches to learn from",
            seen=f"{batches} sizes",
            allowed="8 or more: beams x batch sizes",
            fix="measure more: genrecall bench engine --beam 5,50,300 --batch 1,4,8,16 --json",
        )
    machine = found["hardware"]
    # Only batches that nothing but their size bounds: so the simulation fills them, too.
    probes = [
        {**loop, "beam": point["beam"], "input": point["rows"][0], "batch": point["batch"]}
        for point in fitting
        for loop in [
            *point.get("slo_probes", {}).get("uncapped", []),
            *([point["open_loop"]] if "open_loop" in point else []),
        ]
    ]
    device = (machine["gpus"] or [machine["cpu"]])[0] if found["device"] != "cpu" else machine["cpu"]
    return Measured(cost=cost, device=device, probes=tuple(probes), batches=batches)


def read_rates(path: Path, stated: DeviceRates) -> DeviceRates | None:
    """Rates of a file of ``genrecall bench kernels --json``, in place of stated ones; None: it is another file."""
    found = _read(path)
    if "copy_bytes_per_s" not in found:
        return None
    return replace(
        stated,
        name=str(found["device"]),
        flops=found["matmul_flop_per_s"],
        bytes_per_s=found["copy_bytes_per_s"],
        source=f"products and copies measured on {found['device']}",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not ({"cases", "config"} <= found.keys() or "copy_bytes_per_s" in found):
        raise ConfigError(
            f"{path} holds no measurement that a plan can use",
            seen="other content",
            allowed="what `genrecall bench engine --json` or `genrecall bench kernels --json` printed",
            fix="correct --measured",
        )
    return found
