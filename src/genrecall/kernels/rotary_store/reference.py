"""``(x_i, x_{i+D/2}) → (x_i cos − x_{i+D/2} sin, x_{i+D/2} cos + x_i sin)``, angle ``position · θ_i``: plain torch.

RoPE (Su et al. 2021, arXiv 2104.09864) in the halves layout of transformers, after the head norms of Qwen3. We deviate:
angles are read from a table, and keys and values go straight to where attention will look for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from genrecall.kernels.quantized_linear.reference import FP8_MAX

if TYPE_CHECKING:
    from genrecall.kernels.rotary_store import HeadNorm


def rotary_store(
    qkv: torch.Tensor,
    bias: torch.Tensor | None,
    head_norm: HeadNorm | None,
    cos_sin: torch.Tensor,
    position: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    slot: torch.Tensor,
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    kv_heads, page, width = key.shape[1:]
    stacked = qkv.float() if bias is None else qkv.float() + bias.float()
    stacked = stacked.unflatten(-1, (-1, width))
    heads = stacked.shape[1] - 2 * kv_heads
    rotated = stacked[:, : heads + kv_heads]
    if head_norm is not None:
        rotated = rotated * torch.rsqrt(rotated.square().mean(-1, keepdim=True) + head_norm.epsilon)
        rotated = rotated * head_norm.weight.float()
    cos, sin = cos_sin[:, position.long(), None]
    left, right = rotated.chunk(2, dim=-1)
    rotated = torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1).to(qkv.dtype)
    stored = (slot >= 0).nonzero()[:, 0]
    number, offset = slot[stored].long() // page, slot[stored].long() % page
    key[number, :, offset] = _narrow(rotated[stored, heads:], key.dtype)
    value[number, :, offset] = _narrow(stacked[stored, heads + kv_heads :].to(qkv.dtype), value.dtype)
    return rotated[:, :heads].contiguous()


def _narrow(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """To the cache's type; what fp8 cannot hold becomes its largest value instead of NaN."""
    return (x.clamp(-FP8_MAX, FP8_MAX) if dtype == torch.float8_e4m3fn else x).to(dtype)
