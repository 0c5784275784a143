"""Shapes of blocks of the attention kernel, and what it refuses; nothing here needs Triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from genrecall.errors import ConfigError

if TYPE_CHECKING:
    from genrecall.kernels.paged_attention import PagedKV, SuffixKV


LEAST_PART = 256
"""Prompt tokens that are worth a part of their own."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a program is compiled.

    Attributes:
        block_n: keys a step.
        warps: a program.
        stages: steps whose loads are in flight.
        registers: the most a thread may use, so that more programs share a multiprocessor; None leaves it open.
    """

    block_n: int
    warps: int
    stages: int
    registers: int | None = None


@dataclass(frozen=True, kw_only=True)
class LaunchKey:
    """Which calls share a launch.

    Attributes:
        block_m: query rows of a tile, heads counted in, rounded up to a power of two.
        width: D.
        dtype: of the queries.
        causal: prompts, not beams.
        short: there is no prompt of more than ``LEAST_PART`` tokens. It may only decide of tiles of at most 64 rows:
            batch-invariant attention has larger ones alone.
    """

    block_m: int
    width: int
    dtype: torch.dtype
    causal: bool
    short: bool


CANDIDATES = tuple(
    Launch(block_n=block_n, warps=warps, stages=stages, registers=registers)
    for block_n, warps, stages, registers in (
        (64, 8, 3, 128),
        (64, 8, 3, None),
        (128, 8, 2, None),
        (32, 4, 3, None),
        (64, 4, 2, None),
        (64, 4, 3, None),
    )
)
_found: dict[LaunchKey, Launch] = {}


def remember(key: LaunchKey, launch: Launch) -> None:
    """From now on calls of ``key`` take this launch."""
    _found[key] = launch


def launch_for(key: LaunchKey) -> Launch:
    """What was found for these calls, or the choice for an H100."""
    return _found.get(key) or _default(key)


def _default(key: LaunchKey) -> Launch:
    if key.dtype == torch.float32:
        return Launch(block_n=16, warps=8 if key.block_m > 64 else 4, stages=1)  # more keys would spill registers
    if key.block_m > 64:
        # Two programs a multiprocessor hide each other's loads; heads of 256 need the registers themselves.
        return Launch(block_n=64, warps=8, stages=3, registers=128 if key.width <= 128 else None)
    return Launch(block_n=32 if key.short or key.block_m < 64 else 64, warps=4, stages=2)


def check_shapes(query: torch.Tensor, prefix: PagedKV, suffix: SuffixKV | None) -> None:
    """What the kernel can index.

    Raises:
        ConfigError: a head width or page size that is not a power of two in range.
    """
    width, page = query.shape[2], prefix.key.shape[2]
    if width & (width - 1) or not 16 <= width <= 256:
        raise ConfigError(
            "the attention kernel cannot take this head width",
            seen=width,
            allowed="16, 32, 64, 128 or 256",
            fix="run this model on the CPU, or choose a model with such heads",
        )
    if page & (page - 1):
        raise ConfigError(
            "the attention kernel cannot take this page size",
            seen=page,
            allowed="a power of two",
            fix="set the page size to 16 or 32 tokens",
        )
    rows = [query, prefix.key, prefix.value, prefix.table]
    rows += [suffix.key, suffix.value, suffix.ancestry] if suffix else []
    assert all(tensor.stride(-1) == 1 for tensor in rows), "heads, page numbers and paths are contiguous"
