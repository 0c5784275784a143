"""LoRA: small trained matrices beside frozen ones, and whole trained rows for the SID tokens.

``W' = W + (α / r) B A`` for every linear layer (Hu et al. 2021, arXiv 2106.09685). We deviate in one point: SID tokens
are new to the backbone, so their embedding rows are trained as they are (peft's trainable token indices).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from genrecall.errors import DependencyError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Settings of LoRA.

    Attributes:
        rank: r.
        alpha: α; the update is scaled by α / r.
        dropout: on the update's input.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05


def add_lora(model: PreTrainedModel, settings: LoraSettings, new_tokens: Sequence[int]) -> PreTrainedModel:
    """Freeze the model and put trainable parts into it; the object stays a causal language model of its own class.

    Raises:
        DependencyError: peft is not installed.
    """
    try:
        import peft
    except ImportError:
        raise DependencyError("peft", extra="train", purpose="training with LoRA") from None
    rows = [int(token) for token in new_tokens]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tables = {"embed_tokens": rows} if tied else {"embed_tokens": rows, "lm_head": rows}
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        trainable_token_indices=tables,
    )
    return cast("PreTrainedModel", peft.get_peft_model(model, config))


def merge_lora(model: PreTrainedModel) -> PreTrainedModel:
    """Fold the trained parts into the weights and return the plain model; a model without LoRA is returned as it is."""
    return cast(Any, model).merge_and_unload() if is_lora(model) else model


def is_lora(model: PreTrainedModel) -> bool:
    """Whether ``add_lora`` wrapped this model."""
    return hasattr(model, "peft_config")


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """The HF model within, trained parts included."""
    return cast(Any, model).get_base_model() if is_lora(model) else model
