"""Models to measure with: the true shapes of public checkpoints, with random weights made on the device itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.model.config import SIZES
from genrecall.model.trunk import ItemTrunk, TrunkConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORDS = 151_936
"""Rows of Qwen's vocabulary, to which SID tokens are appended."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a decoder.

    Attributes:
        family: ``qwen2`` or ``qwen3``.
        hidden, ffn, layers, heads, kv_heads, head_dim: as in its configuration.
        words: rows of the vocabulary before the SID tokens.
        window: positions.
    """

    family: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    words: int = WORDS
    window: int = 8192

    def part(self, ranks: int) -> Shape:
        """What one of several ranks multiplies by."""
        kv_heads = max(self.kv_heads // ranks, 1)
        return replace(self, heads=self.heads // ranks, kv_heads=kv_heads, ffn=self.ffn // ranks)

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(out, in) of one layer's products."""
        wide = self.heads * self.head_dim
        return (
            (wide + 2 * self.kv_heads * self.head_dim, self.hidden),
            (self.hidden, wide),
            (2 * self.ffn, self.hidden),
            (self.hidden, self.ffn),
        )


SHAPES = {
    "qwen2-0.5b": Shape(family="qwen2", hidden=896, ffn=4864, layers=24, heads=14, kv_heads=2, head_dim=64),
    "qwen2-1.5b": Shape(family="qwen2", hidden=1536, ffn=8960, layers=28, heads=12, kv_heads=2, head_dim=128),
    "qwen2.5-7b": Shape(
        family="qwen2", hidden=3584, ffn=18944, layers=28, heads=28, kv_heads=4, head_dim=128, words=152_064
    ),
    "qwen3-1.7b": Shape(family="qwen3", hidden=2048, ffn=6144, layers=28, heads=16, kv_heads=8, head_dim=128),
}
# A model of 10 million parameters, as light recommenders are; and the small ones that are trained from scratch.
SHAPES["10m"] = Shape(
    family="qwen3", hidden=384, ffn=768, layers=4, heads=6, kv_heads=6, head_dim=64, words=1024, window=1024
)
SHAPES |= {
    name: Shape(
        family="qwen3",
        hidden=size.hidden,
        ffn=size.ffn,
        layers=size.layers,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        words=1024,
        window=1024,
    )
    for name, size in SIZES.items()
}


def shape_of(name: str) -> Shape:
    """A shape by name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in SHAPES:
        raise ConfigError("unknown model shape", seen=name, allowed=", ".join(SHAPES), fix="choose another --shape")
    return SHAPES[name]


def random_trunk(shape: Shape, trie: Trie, *, dtype: torch.dtype, seed: int, depth_layers: int = 2) -> ItemTrunk:
    """An item trunk of a shape's sizes, with as many KV heads as heads; prompts are items of the trie's catalog."""
    config = TrunkConfig(
        width=shape.hidden, layers=shape.layers, depth_layers=depth_layers, heads=shape.heads,
        ffn=shape.ffn / shape.hidden, window=min(shape.window, 1024), seed=seed,
    )  # fmt: skip
    sids = np.empty((trie.num_items, trie.space.levels), dtype=np.int64)
    node = np.arange(trie.leaves.start, trie.leaves.stop)
    counts = (trie.item_end - trie.item_begin)[node]
    for level in range(trie.space.levels - 1, -1, -1):
        sids[trie.item_order, level] = np.repeat(trie.child_code[node - 1], counts)
        node = np.searchsorted(trie.child_begin, node - 1, side="right") - 1
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return ItemTrunk(config, trie.space, sids).eval()
    finally:
        torch.set_default_dtype(before)


def random_model(
    shape: Shape, sid_tokens: int, *, device: torch.device, dtype: torch.dtype, seed: int
) -> PreTrainedModel:
    """A HF model of this shape with tied embeddings; nothing of it is ever in the host's memory."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    families: dict[str, tuple[Any, Any]] = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }
    config_class, model_class = families[shape.family]
    sizes = {
        "vocab_size": shape.words + sid_tokens,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.window,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "tie_word_embeddings": True,
        "dtype": dtype,
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            model = model_class(config_class(**sizes))
    finally:
        torch.set_default_dtype(before)
    return model.eval()
