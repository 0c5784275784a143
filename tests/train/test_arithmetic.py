"""What the training run swaps inside a model changes its speed, not its results."""

import copy

import pytest
import torch

from genrecall.train.attention import float32_attention
from genrecall.train.norm import RmsNorm, cheap_norms


def gradients(model, tokens):
    model.zero_grad()
    out = model(tokens, use_cache=False).logits
    out.square().mean().backward()
    return out.detach(), [p.grad.clone() for p in model.parameters()]


def test_swapped_parts_give_the_same_outputs_and_gradients(world):
    model = world.model(seed=3).train()
    tokens = torch.randint(0, 90, (3, 17), generator=torch.Generator().manual_seed(0))
    out, grads = gradients(model, tokens)
    with cheap_norms(model, active=True), float32_attention(model, active=True):
        assert model.config._attn_implementation == "genrecall_sdpa_float32"
        swapped, swapped_grads = gradients(model, tokens)
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.model.norm.weight.mul_(2)
            assert not torch.equal(twin(tokens).logits, model(tokens).logits)
    torch.testing.assert_close(swapped, out, rtol=1e-5, atol=1e-6)
    for a, b in zip(swapped_grads, grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-7)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(gradients(model, tokens)[0], out)


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5)])
def test_the_backward_pass_is_the_derivative(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape[-1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: RmsNorm.apply(x, w, 1e-6), (x, weight))
