"""The pieces of a decoder layer: RMSNorm, rotary embedding, SwiGLU.

``RMSNorm(x) = x / sqrt(mean(x²) + ε) · g`` (Zhang & Sennrich 2019); ``RoPE`` rotates pairs ``(i, i + D/2)`` of a head
by ``position · θ_i`` (Su et al. 2021, in the halves layout of transformers); ``SwiGLU(x) = (silu(xG) ⊙ xU) D`` (Shazeer
2020). We deviate in layout only: queries and keys are normed and rotated together, gate and up are one product.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from genrecall.engine.device.weights import LayerWeights


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Over the last axis; the mean is taken in float32."""
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


def rotation(positions: torch.Tensor, inverse_frequency: torch.Tensor, scale: float) -> torch.Tensor:
    """Cosines and sines, float32 (2, *positions, D/2)."""
    angle = positions[..., None].float() * inverse_frequency
    return torch.stack([angle.cos(), angle.sin()]) * scale


def rotate(x: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """Rotate (..., heads, D) by (2, ..., D/2), broadcast over heads."""
    cos, sin = cos_sin.to(x.dtype).unsqueeze(-2)
    left, right = x.chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    out_left, out_right = out.chunk(2, dim=-1)
    torch.mul(left, cos, out=out_left).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=out_right).addcmul_(left, sin)
    return out


def query_key_value(
    x: torch.Tensor, layer: LayerWeights, cos_sin: torch.Tensor, heads: int, kv_heads: int, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normed and rotated heads of (..., E): query (..., H, D), key and value (..., K, D)."""
    stacked = F.linear(rms_norm(x, layer.input_norm, epsilon), layer.qkv, layer.qkv_bias)
    stacked = stacked.unflatten(-1, (heads + 2 * kv_heads, -1))
    rotated = stacked[..., : heads + kv_heads, :]
    if layer.head_norm is not None:
        rotated = F.rms_norm(rotated, (rotated.shape[-1],), None, epsilon) * layer.head_norm
    rotated = rotate(rotated, cos_sin)
    return rotated[..., :heads, :], rotated[..., heads:, :], stacked[..., heads + kv_heads :, :]


def finish_layer(x: torch.Tensor, attended: torch.Tensor, layer: LayerWeights, epsilon: float) -> torch.Tensor:
    """Output projection, residuals and MLP. ``x`` (..., E), ``attended`` (..., H*D)."""
    x = x + F.linear(attended, layer.out, layer.out_bias)
    gate, up = F.linear(rms_norm(x, layer.mlp_norm, epsilon), layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate, inplace=True).mul_(up), layer.down, layer.down_bias)
