"""Dropout for architectures that have none: on the embeddings and on what every attention and MLP block adds.

``y = x · m / (1 - p)`` with m ~ Bernoulli(1 - p) (Srivastava et al. 2014), where GPT-2 puts it. We deviate: hooks of
the training run add it, so that the saved model stays a plain Qwen or Llama, and on the CPU eight elements share one
64-bit random number, which rounds p to 1/256 and makes a mask several times cheaper.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from genrecall.errors import ConfigError
from genrecall.model.lora import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextlib.contextmanager
def residual_dropout(model: PreTrainedModel, p: float) -> Iterator[None]:
    """Drop with probability ``p`` while the model is in training mode, inside this block only."""
    handles = []
    try:
        if p > 0:
            handles = [module.register_forward_hook(_hook(p)) for module in _places(model)]
        yield
    finally:
        for handle in handles:
            handle.remove()


def drop(x: torch.Tensor, p: float) -> torch.Tensor:
    """Inverted dropout; from the default generator of the device."""
    if x.device.type != "cpu":
        return nn.functional.dropout(x, p)
    keep = max(round((1 - p) * 256), 1)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), 2**63 - 1)
    noise = words.view(torch.uint8)[: x.numel()].view(x.shape)
    return x * (noise < keep).to(x.dtype).mul_(256 / keep)


def _hook(p: float) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if not module.training:
            return None
        if isinstance(output, tuple):
            return (drop(output[0], p), *output[1:])
        return drop(output, p)

    return hook


def _places(model: PreTrainedModel) -> list[nn.Module]:
    decoder = plain(model).get_decoder()
    try:
        blocks = [block for layer in decoder.layers for block in (layer.self_attn, layer.mlp)]
    except AttributeError:
        raise ConfigError(
            "dropout does not know this architecture",
            seen=type(decoder).__name__,
            allowed="models of the Qwen and Llama families (layers with self_attn and mlp)",
            fix="train it with dropout 0",
        ) from None
    return [plain(model).get_input_embeddings(), *blocks]
