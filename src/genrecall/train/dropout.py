"""Dropout (``model.dropout``) on the embeddings and the blocks of a HF model, while it is trained here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from genrecall.errors import ConfigError
from genrecall.model.dropout import Dropping
from genrecall.model.lora import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextlib.contextmanager
def residual_dropout(model: PreTrainedModel, p: float) -> Iterator[None]:
    """Drop with probability ``p`` while the model is in training mode, inside this block only."""
    handles = []
    try:
        if p > 0:
            handles = [module.register_forward_hook(Dropping(p)) for module in _places(model)]
        yield
    finally:
        for handle in handles:
            handle.remove()


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
