"""Attention in float32 under bfloat16 autocast on CPUs.

torch's CPU kernel for the backward pass of attention is about five times slower in bfloat16 than in float32 at the
lengths of histories, which would eat all that bfloat16 saves in the matrix products.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from genrecall.model.lora import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAME = "genrecall_sdpa_float32"


@contextlib.contextmanager
def float32_attention(model: PreTrainedModel, *, active: bool) -> Iterator[None]:
    """Use the float32 kernel inside this block, where ``active``."""
    if not active:
        yield
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    inner = plain(model)
    inner.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation("sdpa")


def _attend(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **settings: Any
) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    with torch.autocast(query.device.type, enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **settings)
