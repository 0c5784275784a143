"""A HF state dict as the few large matrices that the decoder multiplies by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.arithmetic import Arithmetic
from genrecall.engine.device.shards import ALL, Shard, Source
from genrecall.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerWeights:
    """One decoder layer. Matrices are (out, in), as the arithmetic keeps them; biases are None where there are none.

    Of several ranks each has its heads (H, K) and its share of F alone, and the first alone adds biases to sums.

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
        whole: of several ranks that also read by tokens, all layers but the last, whole; see ``sequence.ByTokens``.
    """

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    level_heads: tuple[torch.Tensor, ...]
    whole: tuple[LayerWeights, ...] = ()


def read_weights(
    source: Source,
    architecture: Architecture,
    sid_tokens: Sequence[np.ndarray],
    *,
    device: torch.device,
    dtype: torch.dtype,
    arithmetic: Arithmetic,
    shard: Shard | None = None,
    whole: bool = False,
) -> Weights:
    """Stack and convert one rank's part; every tensor of the source must be used.

    Args:
        source: of a whole model.
        architecture: of the whole model.
        sid_tokens: for each of L levels, int64 (C,).
        device, dtype, arithmetic: of the result.
        shard: which rank; None: the only one.
        whole: the layers whole, too.

    Raises:
        ConfigError: tensors that the decoder does not know (adapters, other architectures), or missing ones.
    """
    own, unused = shard or Shard(), set(source.names)
    local = own.of(architecture)

    def size(name: str) -> tuple[int, ...]:
        if name not in source.names:
            raise _mismatch("lacks weights", [name])
        return source.size(name)

    def take(name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        size(name)
        unused.discard(name)
        return source.read(name, rows, columns).to(device=device, dtype=dtype, copy=True)

    def optional(name: str) -> torch.Tensor | None:
        return take(name) if name in source.names else None

    def stacked(names: Sequence[str], spans: Sequence[slice]) -> tuple[Any, torch.Tensor | None]:
        """Products of the same input whose rows are split, one below the other."""
        both = list(zip(names, spans, strict=True))
        weight = torch.cat([take(f"{name}.weight", rows) for name, rows in both])
        if f"{names[0]}.bias" not in source.names:
            return arithmetic.matrix(weight), None
        return arithmetic.matrix(weight), torch.cat([take(f"{name}.bias", rows) for name, rows in both])

    def summed(name: str, part: Shard) -> tuple[Any, torch.Tensor | None]:
        """A product whose columns are split and whose results are summed over ranks."""
        weight = take(f"{name}.weight", ALL, part.even(size(f"{name}.weight")[1]))
        bias = optional(f"{name}.bias")
        return arithmetic.matrix(weight), bias if part.rank == 0 else None

    def layer(index: int, part: Shard, attending: Sequence[Shard]) -> LayerWeights:
        """A part, with what those ranks attend with."""
        at = f"model.layers.{index}."
        q, k, v = (f"{at}self_attn.{name}_proj" for name in "qkv")
        spans = []
        for one in attending:
            keys = one.keys(size(f"{k}.weight")[0], architecture.kv_heads)
            spans += [one.even(size(f"{q}.weight")[0]), keys, keys]
        qkv, qkv_bias = stacked((q, k, v) * len(attending), spans)
        gate, up = (f"{at}mlp.{name}_proj" for name in ("gate", "up"))
        gate_up, gate_up_bias = stacked((gate, up), [part.even(size(f"{gate}.weight")[0])] * 2)
        query_norm, key_norm = optional(f"{at}self_attn.q_norm.weight"), optional(f"{at}self_attn.k_norm.weight")
        head_norm = None
        if query_norm is not None and key_norm is not None:
            heads = (local.heads, local.kv_heads)
            head_norm = torch.cat(
                [norm.expand(n, -1) for norm, n in zip((query_norm, key_norm), heads, strict=True)]
            ).contiguous()
        out, out_bias = summed(f"{at}self_attn.o_proj", part)
        down, down_bias = summed(f"{at}mlp.down_proj", part)
        return LayerWeights(
            input_norm=take(f"{at}input_layernorm.weight"),
            qkv=qkv,
            qkv_bias=qkv_bias,
            head_norm=head_norm,
            out=out,
            out_bias=out_bias,
            mlp_norm=take(f"{at}post_attention_layernorm.weight"),
            gate_up=gate_up,
            gate_up_bias=gate_up_bias,
            down=down,
            down_bias=down_bias,
        )

    embedding = take("model.embed_tokens.weight")
    every = [replace(own, rank=rank) for rank in range(own.ranks)]
    weights = Weights(
        embedding=embedding,
        layers=tuple(layer(index, own, [own]) for index in range(architecture.layers)),
        norm=take("model.norm.weight"),
        level_heads=_level_heads(source, sid_tokens, dtype, device),
        whole=tuple(layer(index, Shard(), every) for index in range(architecture.layers - 1)) if whole else (),
    )
    unused.discard("lm_head.weight")
    if unused:
        raise _mismatch("has weights that the engine does not know", sorted(unused))
    return weights


def _level_heads(
    source: Source, sid_tokens: Sequence[np.ndarray], dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Of the LM head only the rows from the first SID token to the last are read."""
    if not sid_tokens:
        return ()
    # Tied checkpoints may leave the head out of their files.
    name = "lm_head.weight" if "lm_head.weight" in source.names else "model.embed_tokens.weight"
    ids = [torch.from_numpy(np.asarray(tokens, dtype=np.int64)) for tokens in sid_tokens]
    first, last = min(int(one.min()) for one in ids), max(int(one.max()) for one in ids)
    head = source.read(name, slice(first, last + 1))
    return tuple(_lossless(head[one.to(head.device) - first], dtype).to(device) for one in ids)


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
