"""A HF state dict as the few large matrices that the decoder multiplies by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.arithmetic import Arithmetic
from genrecall.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerWeights:
    """One decoder layer. Matrices are (out, in), as the arithmetic keeps them; biases are None where there are none.

    Attributes:
        input_norm: (E,).
        qkv: ((H+2K)*D, E), queries, keys, values stacked.
        qkv_bias: ((H+2K)*D,) or None.
        head_norm: (H+K, D), the norms of query and key heads (Qwen3), or None.
        out: (E, H*D).
        out_bias: (E,) or None.
        mlp_norm: (E,).
        gate_up: (2F, E), gate and up stacked.
        gate_up_bias: (2F,) or None.
        down: (E, F).
        down_bias: (E,) or None.
    """

    input_norm: torch.Tensor
    qkv: Any
    qkv_bias: torch.Tensor | None
    head_norm: torch.Tensor | None
    out: Any
    out_bias: torch.Tensor | None
    mlp_norm: torch.Tensor
    gate_up: Any
    gate_up_bias: torch.Tensor | None
    down: Any
    down_bias: torch.Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """A whole decoder.

    Attributes:
        embedding: (V, E).
        layers: in order.
        norm: (E,).
        level_heads: per level (C, E), the LM head's rows of that level's codes: float32, or the weights' own type where
            that loses nothing. Logits are float32 either way: rounded to bfloat16 (steps of 0.06 at 10) they would tie
            beams that the model can tell apart.
    """

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    level_heads: tuple[torch.Tensor, ...]


def read_weights(
    state: Mapping[str, torch.Tensor],
    architecture: Architecture,
    sid_tokens: Sequence[np.ndarray],
    *,
    device: torch.device,
    dtype: torch.dtype,
    arithmetic: Arithmetic,
) -> Weights:
    """Stack and convert; every tensor of the state dict must be used.

    Raises:
        ConfigError: tensors that the decoder does not know (adapters, other architectures), or missing ones.
    """
    unused = set(state)

    def take(*names: str) -> torch.Tensor:
        missing = [name for name in names if name not in state]
        if missing:
            raise _mismatch("lacks weights", missing)
        unused.difference_update(names)
        if len(names) == 1:
            return state[names[0]].detach().to(device=device, dtype=dtype, copy=True)
        return torch.cat([state[name].detach().to(device=device, dtype=dtype) for name in names])

    def matrix(*names: str) -> Any:
        return arithmetic.matrix(take(*names))

    def optional(*names: str) -> torch.Tensor | None:
        return take(*names) if names[0] in state else None

    def layer(index: int) -> LayerWeights:
        at = f"model.layers.{index}."
        q, k, v = (f"{at}self_attn.{name}_proj" for name in "qkv")
        gate, up = (f"{at}mlp.{name}_proj" for name in ("gate", "up"))
        query_norm, key_norm = optional(f"{at}self_attn.q_norm.weight"), optional(f"{at}self_attn.k_norm.weight")
        head_norm = None
        if query_norm is not None and key_norm is not None:
            heads = (architecture.heads, architecture.kv_heads)
            head_norm = torch.cat(
                [norm.expand(n, -1) for norm, n in zip((query_norm, key_norm), heads, strict=True)]
            ).contiguous()
        return LayerWeights(
            input_norm=take(f"{at}input_layernorm.weight"),
            qkv=matrix(*(f"{name}.weight" for name in (q, k, v))),
            qkv_bias=optional(*(f"{name}.bias" for name in (q, k, v))),
            head_norm=head_norm,
            out=matrix(f"{at}self_attn.o_proj.weight"),
            out_bias=optional(f"{at}self_attn.o_proj.bias"),
            mlp_norm=take(f"{at}post_attention_layernorm.weight"),
            gate_up=matrix(f"{gate}.weight", f"{up}.weight"),
            gate_up_bias=optional(f"{gate}.bias", f"{up}.bias"),
            down=matrix(f"{at}mlp.down_proj.weight"),
            down_bias=optional(f"{at}mlp.down_proj.bias"),
        )

    embedding = take("model.embed_tokens.weight")
    # Tied checkpoints may leave the head out of their files.
    head = state["lm_head.weight"] if "lm_head.weight" in state else state["model.embed_tokens.weight"]
    unused.discard("lm_head.weight")
    level_heads = tuple(
        _lossless(head.detach()[torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(head.device)], dtype).to(device)
        for tokens in sid_tokens
    )
    weights = Weights(
        embedding=embedding,
        layers=tuple(layer(index) for index in range(architecture.layers)),
        norm=take("model.norm.weight"),
        level_heads=level_heads,
    )
    if unused:
        raise _mismatch("has weights that the engine does not know", sorted(unused))
    return weights


def _lossless(head: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    rounded, exact = head.to(dtype), head.to(torch.float32)
    return rounded if torch.equal(rounded.to(torch.float32), exact) else exact


def _mismatch(what: str, names: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"the model {what}",
        seen=", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        allowed="exactly the tensors of a Llama, Qwen2 or Qwen3 causal language model",
        fix="merge adapters into the model first (peft: merge_and_unload), or load another checkpoint",
    )
