"""Beam attention against one softmax per row, written out."""

from __future__ import annotations

import pytest
import torch

from genrecall.kernels.beam_attention import BeamRows, beam_attention


def naive(query, prefix_key, prefix_value, length, suffix_key, suffix_value, ancestry, request, scale):
    out = torch.empty_like(query)
    group = query.shape[1] // prefix_key.shape[1]
    for row, owner in enumerate(request.tolist()):
        seen = int(length[owner])
        for head in range(query.shape[1]):
            kv = head // group
            keys = torch.cat([prefix_key[owner, kv, :seen], suffix_key[ancestry[row], kv]]).double()
            values = torch.cat([prefix_value[owner, kv, :seen], suffix_value[ancestry[row], kv]]).double()
            weight = torch.softmax(keys @ query[row, head].double() * scale, 0)
            out[row, head] = (weight @ values).to(query.dtype)
    return out


def random_case(device: str, heads: int = 6, kv_heads: int = 2):
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    request = torch.tensor([0, 0, 0, 2, 3, 3], device=device)  # request 1 has no row
    ancestry = torch.tensor([[0, 4], [0, 5], [3, 6], [1, 7], [2, 8], [2, 9]], device=device)
    length = torch.tensor([5, 9, 1, 7], device=device)
    prefix = rand(4, kv_heads, 9, 8), rand(4, kv_heads, 9, 8)
    return rand(6, heads, 8), *prefix, length, rand(12, kv_heads, 8), rand(12, kv_heads, 8), ancestry, request


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_rows_see_their_prefix_and_their_own_path(kv_heads):
    *case, request = random_case("cpu", kv_heads=kv_heads)
    rows = BeamRows.of(request, 4)
    assert rows.slot.tolist() == [0, 1, 2, 0, 0, 1]
    assert rows.slots == 3
    torch.testing.assert_close(beam_attention(*case, rows, 0.3), naive(*case, request, 0.3), atol=1e-5, rtol=1e-5)


def test_padding_is_never_read():
    *case, request = random_case("cpu")
    rows = BeamRows.of(request, 4)
    clean = beam_attention(*case, rows, 0.3)
    for prefix in case[1:3]:
        for owner, length in enumerate(case[3].tolist()):
            prefix[owner, :, length:] = 1e4
    torch.testing.assert_close(beam_attention(*case, rows, 0.3), clean)


@pytest.mark.gpu
def test_cuda_equals_cpu():
    *case, request = random_case("cpu")
    on_gpu = [tensor.cuda() for tensor in case]
    found = beam_attention(*on_gpu, BeamRows.of(request.cuda(), 4), 0.3).cpu()
    torch.testing.assert_close(found, beam_attention(*case, BeamRows.of(request, 4), 0.3), atol=1e-4, rtol=1e-4)
