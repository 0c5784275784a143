"""Norms, rotary store, SwiGLU, quantised products and level logits against arithmetic in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from genrecall.kernels.level_logits import level_logits
from genrecall.kernels.quantized_linear import fp8_linear, int8_linear, quantize_fp8, quantize_int8
from genrecall.kernels.rms_norm import rms_norm, rms_norm_fp8
from genrecall.kernels.rotary_store import HeadNorm, rotary_store
from genrecall.kernels.swiglu import swiglu, swiglu_fp8
from tests.kernels.cases import error

EPSILON = 1e-6


def rand(*shape: int, device: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def exact_norm(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    total = x.double() if residual is None else x.double() + residual.double()
    return total / (total.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight.double()


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("width", [16, 100, 1536])
def test_rms_norm(device, width, added):
    x, weight = rand(5, width, device=device), rand(width, device=device, seed=1)
    residual = rand(5, width, device=device, seed=2) if added else None
    found, total = rms_norm(x, weight, EPSILON, residual)
    torch.testing.assert_close(found.double(), exact_norm(x, weight, residual), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total, x + residual if added else x)


def _steps_off(values: torch.Tensor, scale: torch.Tensor, exact: torch.Tensor) -> float:
    """Error in units of what E4M3 allows: half a step of 1/8 relative, or half of the smallest step."""
    scaled = exact.double() / scale.double()
    allowed = torch.maximum(scaled.abs() / 16, torch.full_like(scaled, 2.0**-10))
    return float(((values.double() - scaled).abs() / allowed).max())


@pytest.mark.parametrize("added", [False, True])
def test_rms_norm_fp8(fp8_device, added):
    device = fp8_device
    x, weight = rand(4, 96, device=device), rand(96, device=device, seed=1)
    residual = rand(4, 96, device=device, seed=2) if added else None
    found, _ = rms_norm_fp8(x, weight, EPSILON, residual)
    exact = exact_norm(x, weight, residual)
    torch.testing.assert_close(found.scale[:, 0].double(), exact.abs().amax(1) / 448, atol=0, rtol=1e-5)
    assert _steps_off(found.values, found.scale, exact) <= 1.01


@pytest.mark.parametrize("width", [32, 5000])
def test_swiglu(device, width):
    x = rand(3, 2 * width, device=device)
    gate, up = x.double().chunk(2, -1)
    torch.testing.assert_close(swiglu(x).double(), F.silu(gate) * up, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [32, 48, 5000, 8960])
def test_swiglu_fp8(fp8_device, width):
    x = rand(3, 2 * width, device=fp8_device)
    gate, up = x.double().chunk(2, -1)
    exact = F.silu(gate) * up
    found = swiglu_fp8(x)
    assert _steps_off(found.values, found.scale, exact) <= 1.01


@pytest.mark.parametrize("width", [1, 48, 300])
def test_swiglu_fp8_covers_every_width(device, width):
    """Scales, and values to a half: the interpreter cuts off mantissa bits of fp8."""
    x = rand(3, 2 * width, device=device)
    gate, up = x.double().chunk(2, -1)
    exact = F.silu(gate) * up
    found = swiglu_fp8(x)
    torch.testing.assert_close(found.scale[:, 0].double(), exact.abs().amax(1) / 448, atol=0, rtol=1e-5)
    off = (found.values.double() * found.scale.double() - exact).abs()
    assert bool((off <= exact.abs() / 2 + found.scale.double() / 64).all())


def test_rows_of_zeros_can_be_quantised(device):
    found = quantize_fp8(torch.zeros(2, 64, device=device))
    assert not found.values.float().any()
    assert torch.isfinite(found.scale).all()


@pytest.mark.parametrize("width", [64, 5000])
def test_quantize_fp8(fp8_device, width):
    x = rand(3, width, device=fp8_device)
    found = quantize_fp8(x)
    assert _steps_off(found.values, found.scale, x) <= 1.01


@pytest.mark.parametrize("biased", [False, True])
def test_int8_linear(device, biased):
    x, weight = rand(5, 80, device=device), rand(70, 80, device=device, seed=1)
    bias = rand(70, device=device, seed=2) if biased else None
    packed = quantize_int8(weight)
    widened = packed.values.double() * packed.scale.double()
    assert float(((widened - weight.double()) / packed.scale).abs().max()) <= 0.501
    expected = F.linear(x.double(), widened, None if bias is None else bias.double())
    torch.testing.assert_close(int8_linear(x, packed, bias).double(), expected, atol=1e-4, rtol=1e-4)


def test_fp8_linear_on_the_cpu():
    x, weight = (quantize_fp8(rand(rows, 64, device="cpu", seed=rows)) for rows in (5, 48))
    bias = rand(48, device="cpu")
    expected = (x.values.double() * x.scale) @ (weight.values.double() * weight.scale).T + bias
    torch.testing.assert_close(fp8_linear(x, weight, bias, torch.float32).double(), expected, atol=1e-4, rtol=1e-4)


def exact_rotary(qkv, bias, norm, cos_sin, position, heads, kv_heads, width):
    stacked = (qkv.double() if bias is None else qkv.double() + bias.double()).unflatten(-1, (-1, width))
    x = stacked[:, : heads + kv_heads]
    if norm is not None:
        x = x / (x.square().mean(-1, keepdim=True) + norm.epsilon).sqrt() * norm.weight.double()
    cos, sin = cos_sin.double()[:, position.long(), None].repeat(1, 1, 1, 2)
    turned = torch.cat([-x[..., width // 2 :], x[..., : width // 2]], -1)
    x = x * cos + turned * sin
    return x[:, :heads], x[:, heads:], stacked[:, heads + kv_heads :]


@pytest.mark.parametrize(("biased", "normed"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("page", [1, 4])
def test_rotary_store(device, biased, normed, page):
    rows, heads, kv_heads, width = 5, 3, 1, 16
    columns = (heads + 2 * kv_heads) * width
    qkv = rand(rows, columns, device=device)
    bias = rand(columns, device=device, seed=1) if biased else None
    norm = HeadNorm(weight=rand(heads + kv_heads, width, device=device, seed=2), epsilon=EPSILON) if normed else None
    cos_sin = rand(2, 9, width // 2, device=device, seed=3)
    position = torch.tensor([[0, 9], [8, 9], [3, 9], [1, 9], [2, 9]], dtype=torch.int32, device=device)[:, 0]
    # A column of a matrix, as the engine gives it.
    slot = torch.tensor([[5, 7], [5, 0], [5, -1], [5, 2], [5, 3]], dtype=torch.int32, device=device)[:, 1]
    key = torch.full((8 // page, kv_heads, page, width), 99.0, device=device)
    value = key.clone()
    query = rotary_store(qkv, bias, norm, cos_sin, position, key, value, slot)
    expected = exact_rotary(qkv, bias, norm, cos_sin, position, heads, kv_heads, width)
    torch.testing.assert_close(query.double(), expected[0], atol=1e-5, rtol=1e-5)
    for pages, rows_stored in ((key, expected[1]), (value, expected[2])):
        flat = pages.transpose(1, 2).reshape(8, kv_heads, width).double()
        torch.testing.assert_close(flat[[7, 0, 2, 3]], rows_stored[[0, 1, 3, 4]], atol=1e-5, rtol=1e-5)
        assert (flat[[1, 4, 5, 6]] == 99.0).all(), "no other place is written"


def test_a_cache_in_fp8_holds_no_nan(fp8_device):
    qkv = rand(3, 3 * 16, device=fp8_device) * 300
    key, value = torch.zeros(2, 3, 1, 1, 16, device=fp8_device).to(torch.float8_e4m3fn).unbind(0)
    row = torch.arange(3, dtype=torch.int32, device=fp8_device)
    angles = torch.stack([torch.ones(3, 8), torch.zeros(3, 8)]).to(fp8_device)
    rotary_store(qkv, None, None, angles, row, key, value, row)
    for stored, given in ((key, qkv[:, 16:32]), (value, qkv[:, 32:])):
        given, stored = given.clamp(-448, 448), stored[:, 0, 0].float()
        assert float(((stored - given).abs() / given.abs().clamp(min=2**-6)).max()) <= 1 / 16


def test_level_logits_are_not_rounded(device):
    hidden, head = rand(4, 64, device=device, dtype=torch.bfloat16), rand(9, 64, device=device, seed=1)
    for weight in (head, head.bfloat16()):
        found = level_logits(hidden, weight)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), hidden.double() @ weight.double().T, atol=2e-5, rtol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 165, 2400])
def test_half_precision_errs_no_more_than_torch(rows):
    kind = {"device": "cuda", "dtype": torch.bfloat16}
    x, residual = rand(rows, 1536, **kind), rand(rows, 1536, seed=1, **kind)
    weight = rand(1536, seed=2, **kind)
    exact = exact_norm(x, weight, residual)
    torchs = F.rms_norm(x + residual, (1536,), weight, EPSILON)
    assert error(rms_norm(x, weight, EPSILON, residual)[0], exact) <= 2 * error(torchs, exact)

    stacked = rand(rows, 2 * 8960, **kind)
    gate, up = stacked.chunk(2, -1)
    exact = F.silu(gate.double()) * up.double()
    assert error(swiglu(stacked), exact) <= 2 * error(F.silu(gate) * up, exact)

    matrix = rand(2048, 1536, seed=3, **kind)
    packed = quantize_int8(matrix)
    widened = (packed.values.float() * packed.scale).bfloat16()
    exact = x.double() @ (packed.values.double() * packed.scale.double()).T
    assert error(int8_linear(x, packed), exact) <= 2 * error(F.linear(x, widened), exact)

    quantised, weights = quantize_fp8(x), quantize_fp8(matrix)
    exact = (quantised.values.double() * quantised.scale) @ (weights.values.double() * weights.scale).T
    rounding = exact.abs().max() * 2.0**-8  # of a bfloat16 result
    assert error(fp8_linear(quantised, weights), exact) <= 2 * float(rounding)


@pytest.mark.gpu
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("width", [48, 896, 8960])
@pytest.mark.parametrize("outputs", [80, 1536, 17920])
@pytest.mark.parametrize("rows", [1, 16, 50, 150, 700])
def test_fp8_products_err_no_more_than_torch(rows, outputs, width, biased):
    x, weight = (quantize_fp8(rand(count, width, device="cuda", seed=count)) for count in (rows, outputs))
    bias = rand(outputs, device="cuda", dtype=torch.bfloat16) if biased else None
    exact = (x.values.double() * x.scale) @ (weight.values.double() * weight.scale).T
    exact = exact if bias is None else exact + bias.double()
    scales = {"scale_a": x.scale, "scale_b": weight.scale.T, "out_dtype": torch.bfloat16, "use_fast_accum": True}
    torchs = torch._scaled_mm(x.values, weight.values.T, **scales)
    torchs = torchs if bias is None else torchs + bias
    assert error(fp8_linear(x, weight, bias), exact) <= 2 * error(torchs, exact)
