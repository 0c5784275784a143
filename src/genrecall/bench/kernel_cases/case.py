"""What a case of the kernels' benchmark is, and the sizes that cases have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from genrecall.errors import ConfigError

Rand = Callable[..., torch.Tensor]
"""Normal numbers of a shape, in the engine's type or in ``kind``."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Sizes of the engine; defaults are the reference workload (Qwen2-1.5B, 150 tokens in, SIDs of 4 x 256).

    Attributes:
        requests, beam: R and W; M = R * W rows.
        prompt, long_prompt: tokens a request.
        width, heads, kv_heads, head_width, hidden: E, H, K, D, and of the MLP.
        items: in the catalog, with random SIDs.
        levels, codes: of the SIDs.
        page: tokens.
    """

    requests: int = 8
    beam: int = 300
    prompt: int = 150
    long_prompt: int = 4000
    width: int = 1536
    heads: int = 12
    kv_heads: int = 2
    head_width: int = 128
    hidden: int = 8960
    items: int = 100_000
    levels: int = 4
    codes: int = 256
    page: int = 16


@dataclass(frozen=True, kw_only=True)
class RankerWorkload:
    """Sizes of the ranker; defaults are those of ``genrecall bench rank``.

    Attributes:
        requests, candidates: of a batch, of a request; P = requests * candidates.
        items: that candidates and histories are of.
        state: width of the generator's state.
        table_rows: of the one table that stays in host memory, 16 wide in float16.
        exponent: of the power law that lookups in it follow.
    """

    requests: int = 16
    candidates: int = 1000
    items: int = 400_000
    state: int = 1536
    table_rows: int = 100_000_000
    exponent: float = 1.05

    def __post_init__(self) -> None:
        least = max(1 << 18, 2 * self.items)
        if min(self.requests, self.candidates, self.items, self.state) < 1 or self.table_rows <= least:
            raise ConfigError(
                "the ranker's kernels cannot be measured at these sizes",
                seen=f"{self.requests} requests of {self.candidates} candidates, {self.table_rows:,} rows",
                allowed=f"positive sizes, and more than {least:,} rows, so that this table is the one on the host",
                fix="correct --candidates or --table-rows",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One kernel at one size; ``run`` and ``reference`` return a tensor or a tuple of tensors that must agree.

    Attributes:
        name, shape: what is printed.
        run, reference: no arguments.
        bytes, flop: that no implementation does without.
        bus_bytes: likewise, out of host memory.
        arithmetic: whose rate bounds it: products in the engine's type, on fp8 tensor cores, or exact in float32.
    """

    name: str
    shape: str
    run: Callable[[], Any]
    reference: Callable[[], Any]
    bytes: int
    flop: int = 0
    bus_bytes: int = 0
    arithmetic: Literal["matmul", "fp8", "float32"] = "matmul"
