"""GPUs, memory, tiers of kept prompts and p99 for a service of so many users.

    replicas = ⌈ qps / max { rate : p99(rate) ≤ slo } ⌉,    GPUs = replicas · ranks

p99 is simulated with the engine's own scheduler (``queue``) over seconds of batches that were measured, or that a
device cannot go below (``costs``); the plan says which of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from genrecall.bench.floor import rows_of
from genrecall.bench.plan.costs import Cost, Measured, Roofline, read_measured, read_rates
from genrecall.bench.plan.devices import stated
from genrecall.bench.plan.queue import Waits, Workload, full_batch, highest_rate, load_of, saturated_rate, simulate
from genrecall.bench.shapes import Shape, shape_of
from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.memory import bytes_a_token
from genrecall.engine.host.step import fit
from genrecall.engine.setup import KV_SHARE, MOST_KV_TOKENS
from genrecall.errors import CapacityError, ConfigError

_BYTES = {"bf16": 2, "fp8": 1, "int8": 1, "fp32": 4}
_KV = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
_CHECKED = 6
_MOST_BATCH, _MOST_TOKENS = 4096, 1 << 17


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is asked of the service.

    Attributes:
        users: whose prompts might be kept.
        qps: requests per second at the peak.
        beam: W.
        history: items that a prompt shows.
        words: tokens of a prompt beside those of its items.
        slo_ms: the p99 that must be kept.
        shape: of the model, see ``bench.shapes``.
        levels, codes: of the SID space.
        precision: of weights, as in ``bench.engine``.
        prompt_kv: of kept prompts: bf16 or fp8.
        ranks: GPUs that share one model.
        batch: the most requests of a batch.
        gpu: by its name, where nothing was measured.
        measured: a results file; None: stated peaks.
        requests: how many are simulated.
    """

    users: int
    qps: float
    beam: int = 50
    history: int = 35
    words: int = 10
    slo_ms: float = 100.0
    shape: str = "qwen2-1.5b"
    levels: int = 4
    codes: int = 256
    precision: str = "bf16"
    prompt_kv: str = "bf16"
    ranks: int = 1
    batch: int = 32
    gpu: str = "h100"
    measured: Path | None = None
    requests: int = 4000

    def __post_init__(self) -> None:
        sizes = (self.users, self.beam, self.history, self.levels, self.codes, self.ranks, self.batch)
        rates = 0 < self.qps < math.inf and 0 < self.slo_ms < math.inf
        if min(sizes) < 1 or not rates or self.words < 0 or self.requests < 100 or self.batch > _MOST_BATCH:
            raise ConfigError(
                "this demand cannot be planned for",
                seen=f"users={self.users}, qps={self.qps}, beam={self.beam}, history={self.history}, "
                f"slo_ms={self.slo_ms}, ranks={self.ranks}, batch={self.batch}",
                allowed=f"positive numbers; 100 simulated requests or more; batches of at most {_MOST_BATCH}",
                fix="correct the options",
            )
        if self.tokens > _MOST_TOKENS:
            raise ConfigError(
                "no model reads prompts as long as these",
                seen=f"{self.tokens:,} tokens",
                allowed=f"{_MOST_TOKENS:,} or fewer",
                fix="lower --history or --words",
            )
        if self.precision not in _BYTES or self.prompt_kv not in _KV:
            raise ConfigError(
                "unknown precision",
                seen=f"{self.precision}, {self.prompt_kv}",
                allowed=f"{', '.join(_BYTES)}; of kept prompts {', '.join(_KV)}",
                fix="choose another",
            )

    @property
    def tokens(self) -> int:
        """Of a prompt."""
        return self.history * self.levels + self.words


def plan(demand: Demand) -> dict[str, Any]:
    """The plan, with what it rests on.

    Raises:
        CapacityError: the objective cannot be kept, or the model does not fit the GPUs.
        ConfigError: the measured file is of something else.
    """
    shape = shape_of(demand.shape)
    if shape.heads % demand.ranks or (shape.kv_heads % demand.ranks and demand.ranks % shape.kv_heads):
        raise ConfigError(
            "the model's heads cannot be shared evenly by so many GPUs",
            seen=f"{shape.heads} heads and {shape.kv_heads} KV heads over {demand.ranks}",
            allowed="a number that divides the heads, and divides the KV heads or is a multiple of them",
            fix="choose another --tp",
        )
    cost, basis, measured, memory_bytes = _cost_of(demand, shape)
    codes = [demand.codes] * demand.levels
    rows = (*rows_of(demand.tokens, demand.beam, codes)[1:], min(demand.beam, demand.codes**demand.levels))
    work = Workload(tokens=demand.tokens, rows=rows, batch=demand.batch)
    best = highest_rate(work, cost, slo_ms=demand.slo_ms, requests=demand.requests)
    alone_ms = 1e3 * cost.seconds(load_of(work, 1))
    if best is None:
        raise CapacityError(
            "no number of these GPUs keeps the objective",
            seen=f"{alone_ms:.1f} ms for one request alone",
            allowed=f"a p99 of {demand.slo_ms:g} ms",
            fix="narrow --beam, shorten --history, choose a smaller --shape, or spread it with --tp",
        )
    replicas = max(math.ceil(demand.qps / best.rate), 1)
    expected = simulate(work, cost, demand.qps / replicas, requests=demand.requests)
    memory = _memory(demand, shape, memory_bytes)
    found = {
        "demand": {**asdict(demand), "measured": None if demand.measured is None else str(demand.measured)},
        "basis": basis,
        "prompt_tokens": demand.tokens,
        "token_rows_a_request": demand.tokens + sum(rows[:-1]),
        "gpus": replicas * demand.ranks,
        "replicas": replicas,
        "one_request_alone_ms": alone_ms,
        "highest_rate_of_a_replica": asdict(best),
        "expected": asdict(expected),
        "memory_gb_a_gpu": memory,
        "kept_prompts": _tiers(demand, memory, replicas, cost, work),
    }
    if measured is not None:
        found["checked"] = _check(measured, demand, cost)
    return found


def _cost_of(demand: Demand, shape: Shape) -> tuple[Cost, dict[str, Any], Measured | None, float]:
    """Cost, what it rests on, the measurement where there is one, and the bytes of a GPU."""
    device = stated(demand.gpu)
    rates = device if demand.measured is None else read_rates(demand.measured, device)
    if rates is None:
        assert demand.measured is not None, "a file was read"
        found = read_measured(demand.measured, shape=demand.shape, precision=demand.precision, ranks=demand.ranks)
        basis = {
            "kind": "measured",
            "said": f"the engine's cost model, fitted to {found.batches} sizes of batches on {found.device}",
            "memory_of": device.name,
        }
        return found.cost, basis, found, device.memory_bytes
    bound = Roofline(
        shape=shape, ranks=demand.ranks, levels=demand.levels, item_bytes=_BYTES[demand.precision], rates=rates
    )
    basis = {
        "kind": "bound",
        "said": f"arithmetic from {rates.flops / 1e12:.0f} TFLOP/s (bf16) and {rates.bytes_per_s / 1e12:.2f} TB/s "
        f"({rates.source}): no engine is as fast, so plan for more",
        "memory_of": device.name,
    }
    return bound, basis, None, device.memory_bytes


def _memory(demand: Demand, shape: Shape, memory_bytes: float) -> dict[str, float]:
    """What lies on one GPU, in GB; raises CapacityError where weights and one batch do not fit."""
    part, item = shape.part(demand.ranks), _BYTES[demand.precision]
    table = 4 if demand.precision == "fp32" else 2  # the embedding is never quantised
    weights = part.layers * sum(out * into for out, into in part.matrices) * item
    embedding = (shape.words + demand.levels * demand.codes) * shape.hidden * table
    local = _architecture(part)
    plain = torch.float32 if demand.precision == "fp32" else torch.bfloat16
    beams = fit(4096) * (demand.levels - 1) * bytes_a_token(local, plain)
    token = bytes_a_token(local, _KV[demand.prompt_kv])
    free = memory_bytes - weights - embedding
    kept = min(int(free * KV_SHARE) // token, MOST_KV_TOKENS)
    if kept < demand.tokens or free - kept * token < beams:
        raise CapacityError(
            "the model does not fit these GPUs",
            seen=f"{(weights + embedding + beams) / 1e9:.1f} GB of weights and beams",
            allowed=f"{memory_bytes / 1e9:.0f} GB with room for prompts",
            fix="spread it with --tp, choose --precision fp8, or another --gpu",
        )
    figures = {"weights": weights, "embedding": embedding, "beams": beams, "prompts": kept * token}
    return {**{name: value / 1e9 for name, value in figures.items()}, "of": memory_bytes / 1e9, "prompt_tokens": kept}


def _tiers(demand: Demand, memory: Mapping[str, float], replicas: int, cost: Cost, work: Workload) -> dict[str, float]:
    """Where the users' prompts would lie, and from what transfer rate on fetching one beats reading it again.

    What a hit saves is its share of a full batch: alone, a request waits for the weights whatever it reads.
    """
    token = demand.ranks * memory["prompts"] * 1e9 / memory["prompt_tokens"]
    user_bytes = token * demand.tokens
    on_gpus = min(int(replicas * memory["prompt_tokens"]) // demand.tokens, demand.users)
    size = full_batch(work)
    saved_s = (cost.seconds(load_of(work, size)) - cost.seconds(load_of(work, size, work.tokens - 1))) / size
    return {
        "mb_a_user": user_bytes / 1e6,
        "users_on_gpus": on_gpus,
        "share_on_gpus": on_gpus / demand.users,
        "gb_for_the_others": (demand.users - on_gpus) * user_bytes / 1e9,
        "saved_ms_a_hit": 1e3 * saved_s,
        "fetching_pays_above_gb_per_s": user_bytes / saved_s / 1e9 if saved_s > 0 else math.inf,
    }


def _check(measured: Measured, demand: Demand, cost: Cost) -> list[dict[str, float]]:
    """What the simulation says of open loops that were measured in the same run, beside what was measured."""
    found: list[dict[str, float]] = []
    for probe in measured.probes:
        rows = rows_of(probe["input"], probe["beam"], [demand.codes] * demand.levels)
        work = Workload(tokens=probe["input"], rows=(*rows[1:], probe["beam"]), batch=probe["batch"])
        if probe["rate"] < 0.98 * saturated_rate(work, cost) and len(found) < _CHECKED:
            said: Waits = simulate(work, cost, probe["rate"], requests=demand.requests)
            found.append(
                {
                    "beam": probe["beam"], "rate": probe["rate"],
                    "measured_p50_ms": probe["p50_ms"], "predicted_p50_ms": said.p50_ms,
                    "measured_p99_ms": probe["p99_ms"], "predicted_p99_ms": said.p99_ms,
                }
            )  # fmt: skip
    return found


def _architecture(shape: Shape) -> Architecture:
    return Architecture(
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_width=shape.head_dim,
        epsilon=1e-6,
        window=shape.window,
        vocabulary=shape.words,
        inverse_frequency=torch.empty(0),
        rope_scale=1.0,
    )
