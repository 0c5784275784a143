"""Tiny random models, shared by all engine tests."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 64
FIRST_SID_TOKEN = 20
SIZES = {
    "vocab_size": VOCABULARY,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


def _grouped(heads: int, kv_heads: int, hidden: int = 64) -> dict[str, int]:
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": hidden}


MODELS = {
    "qwen3_tied": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZES, **_grouped(4, 2), head_dim=16, tie_word_embeddings=True)
    ),
    "qwen3_bias": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, **_grouped(4, 4), head_dim=16, attention_bias=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **_grouped(4, 1), tie_word_embeddings=True)),
    "qwen2_yarn": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **_grouped(4, 2), rope_parameters=YARN)),
    "llama_llama3": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **_grouped(4, 2), rope_parameters=LLAMA3)),
    "llama_bias": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, **_grouped(4, 1), attention_bias=True, mlp_bias=True, rope_parameters=LINEAR)
    ),
}


@cache
def make_model(name: str = "qwen3_tied", seed: int = 0) -> PreTrainedModel:
    """Random weights large enough that codes differ clearly; norms and biases random too."""
    torch.manual_seed(seed)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            tensor.normal_(1.0 if "norm" in key else 0.0, 0.25)
    return model


def sid_tokens(codes: tuple[int, ...]) -> list[np.ndarray]:
    """Contiguous ids, in flat order, as a vocabulary lays them out."""
    begins = FIRST_SID_TOKEN + np.concatenate([[0], np.cumsum(codes)[:-1]])
    return [np.arange(begin, begin + size) for begin, size in zip(begins, codes, strict=True)]
