"""Which HF models the decoder reads, and the refusal of everything it would get wrong.

Source of the families: transformers ``models/{llama,qwen2,qwen3}``. Rotary frequencies come from the family's own
rotary module, so every scaling that does not depend on the prompt's length is theirs to define.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from genrecall.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FAMILIES = ("llama", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, kw_only=True, eq=False)
class Architecture:
    """Sizes and constants of a decoder.

    Attributes:
        layers: number of decoder layers.
        heads: H.
        kv_heads: K.
        head_width: D; H * D need not be E.
        epsilon: of every RMSNorm.
        window: the most tokens, prompt and SID together.
        vocabulary: V.
        inverse_frequency: float32 (D/2,).
        rope_scale: factor on cosines and sines (yarn).
    """

    layers: int
    heads: int
    kv_heads: int
    head_width: int
    epsilon: float
    window: int
    vocabulary: int
    inverse_frequency: torch.Tensor
    rope_scale: float

    @classmethod
    def read(cls, model: PreTrainedModel) -> Architecture:
        """Read a model's configuration.

        Raises:
            ConfigError: another family, or a setting that the decoder does not compute.
        """
        config = model.config
        _require_known(config)
        # A fresh rotary module: the model's own buffer may have been rounded by a cast of the whole model to bfloat16.
        rotary_class = type(model.get_decoder().rotary_emb)
        with torch.device("cpu"):
            rotary = rotary_class(config)
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        inverse_frequency = rotary.inv_freq.float()
        if len(inverse_frequency) * 2 != head_width:
            raise _refusal("partial rotary embedding", f"{len(inverse_frequency) * 2} of {head_width}", "all of a head")
        return cls(
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=config.num_key_value_heads,
            head_width=head_width,
            epsilon=config.rms_norm_eps,
            window=config.max_position_embeddings,
            vocabulary=config.vocab_size,
            inverse_frequency=inverse_frequency,
            rope_scale=float(rotary.attention_scaling),
        )


def _require_known(config: PreTrainedConfig) -> None:
    """Optional HF fields are read with a default, because each family declares only its own."""
    if config.model_type not in FAMILIES:
        raise _refusal("model family", config.model_type, ", ".join(FAMILIES))
    if config.hidden_act != "silu":
        raise _refusal("activation", config.hidden_act, "silu")
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layer_types != {"full_attention"}:
        raise _refusal("attention of some layers", ", ".join(sorted(layer_types)), "full_attention in every layer")
    if getattr(config, "quantization_config", None) is not None:
        raise _refusal("quantised weights", "quantization_config", "float32, bfloat16 or float16 weights")
    rope_type = config.rope_parameters["rope_type"]
    if rope_type not in ROPE_TYPES:
        raise _refusal("rotary scaling", rope_type, ", ".join(ROPE_TYPES))


def _refusal(setting: str, seen: object, allowed: str) -> ConfigError:
    return ConfigError(
        f"the engine cannot compute this model's {setting}",
        seen=seen,
        allowed=allowed,
        fix="use a Llama, Qwen2, Qwen2.5 or Qwen3 checkpoint with plain settings, or score with engine.reference",
    )
