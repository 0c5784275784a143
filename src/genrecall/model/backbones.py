"""Backbones: a small Qwen3 from scratch, or a pretrained HF causal language model whose vocabulary is grown.

New rows of a pretrained embedding start at ``e(code) = mean{ e(t) : t ∈ titles of the items that carry the code } + ε``
(grounded initialisation, arXiv 2604.02324); a code without any title starts at the mean of all rows. We deviate: ε is
normal with a tenth of the embedding's own deviation, so that codes with equal titles can part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from genrecall import artifacts
from genrecall.errors import ConfigError
from genrecall.model.config import ModelConfig
from genrecall.model.weights import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NOISE = 0.1
_INITIAL_DEVIATION = 0.02
_IDENTITY = ("config.json", "tokenizer.json")


def build_scratch(config: ModelConfig, vocab_size: int) -> PreTrainedModel:
    """A Qwen3 with random weights and tied embeddings, float32, on the CPU."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = config.sizes
    hf = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.ffn,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=config.window,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=_INITIAL_DEVIATION,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Qwen3ForCausalLM(hf)
    model.set_attn_implementation("sdpa")
    return model


def digest_of_backbone(source: str | Path) -> str:
    """What a backbone is, wherever it lies: ``sha256:…`` of a directory's configuration, tokenizer and weights.

    A name on the Hub stands for itself.
    """
    directory = Path(source)
    if not directory.is_dir():
        return str(source)
    total = hashlib.sha256()
    for file in sorted(directory.iterdir()):
        if file.name in _IDENTITY or file.suffix == ".safetensors":
            total.update(f"{file.name} {artifacts.sha256(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a backbone."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreadable(source, "tokenizer", error) from error


def load_backbone(
    source: str | Path,
    *,
    vocab_size: int,
    new_tokens: np.ndarray,
    grounding: Sequence[np.ndarray] | None = None,
    pad_to_multiple: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> PreTrainedModel:
    """A pretrained causal language model (Qwen2/Qwen3/Llama family) with rows for new tokens.

    Args:
        source: a HF directory with safetensors, or a name on the Hub.
        vocab_size: rows the vocabulary needs; a larger embedding is kept as it is.
        new_tokens: int (M,) ids whose rows are initialised here.
        grounding: for each new token, the ids of the tokens whose mean it starts from; empty: no grounding for it.
        pad_to_multiple: round the number of rows up (64 suits tensor cores).
        dtype: of the weights.
        seed: of the noise on new rows.

    Raises:
        ConfigError: the model cannot be read as a causal language model from safetensors.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                str(source), dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise _unreadable(source, "model", error) from error
    present = len(_tables(model)[0])
    rows = -(-max(vocab_size, present) // pad_to_multiple) * pad_to_multiple
    if rows > present:
        model.resize_token_embeddings(rows, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    for table in _tables(model):
        _ground(table, torch.as_tensor(np.asarray(new_tokens)), grounding, generator)
    return model


def _tables(model: PreTrainedModel) -> list[torch.Tensor]:
    """Input rows and, where they are not the same, output rows; (V, E) each."""
    tables = [cast(torch.Tensor, model.get_input_embeddings().weight)]
    output = cast(torch.Tensor, model.get_output_embeddings().weight)
    return tables if output is tables[0] else [*tables, output]


@torch.no_grad()
def _ground(
    table: torch.Tensor, new: torch.Tensor, grounding: Sequence[np.ndarray] | None, generator: torch.Generator
) -> None:
    old = torch.ones(table.shape[0], dtype=torch.bool)
    old[new.min() :] = False  # rows from the first new token on were random or unused before
    known = table[old].float()
    rows = known.mean(0, keepdim=True).repeat(len(new), 1)
    for row, tokens in enumerate(grounding or ()):
        if len(tokens):
            rows[row] = table[torch.as_tensor(np.asarray(tokens))].float().mean(0)
    noise = torch.randn(rows.shape, generator=generator) * (known.std() * _NOISE)
    table[new] = (rows + noise.to(rows.device)).to(table.dtype)


def _unreadable(source: str | Path, what: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"the backbone's {what} cannot be loaded",
        seen=f"{source}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        allowed="a directory (or Hub name) of a HF causal language model with safetensors weights and a tokenizer.json",
        fix="check the path; convert older weights with save_pretrained(safe_serialization=True)",
    )
