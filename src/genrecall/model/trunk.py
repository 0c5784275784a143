"""Item-level trunk with a light depth decoder: the history costs one place an item, not one a code.

    v_i = √E · Σ_l e[s_l(i)],  h = Trunk(v_prefix …, v_1 … v_t)_t,  p(c_l | h, c_<l) = softmax(W_l · Depth(B h, c_<l)_l)

After the RQ-Transformer (Lee et al. 2022, arXiv 2203.01941), which splits an image model in the same way. We deviate:
both halves are plain Qwen3 decoders, so that an engine which runs those runs this, and the softmax is the caller's,
who knows which codes are valid.

Prompt tokens number items, not codes: ``0 … I-1`` items, then ``I`` more for items that open a new session (where the
model tells sessions apart), then the prefix rows (start, profile values, words of searches).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from genrecall.errors import ArtifactError, ConfigError
from genrecall.model.dropout import Dropping
from genrecall.sid.space import SidSpace

CONFIG, WEIGHTS = "trunk.json", "trunk.safetensors"
_PLAIN = {"full_attention": None}  # no mask: causal, padded on the right; HF makes none of its own then


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """Sizes, and what is dropped while training.

    Attributes:
        width: E of trunk and depth decoder.
        layers, depth_layers: of each.
        heads: of attention, in both.
        ffn: width of the feed-forward blocks as a multiple of E.
        window: the most items of a history.
        dropout: on inputs and on what every block adds.
        item_dropout: share of history items that are blanked while training.
        seed: of the initial weights.
    """

    width: int = 256
    layers: int = 3
    depth_layers: int = 2
    heads: int = 4
    ffn: float = 2.0
    window: int = 50
    dropout: float = 0.4
    item_dropout: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = min(self.width, self.layers, self.depth_layers, self.heads, self.window)
        drops = max(self.dropout, self.item_dropout)
        if sizes < 1 or self.width % (2 * max(self.heads, 1)) or not 0 <= drops < 1 or self.ffn <= 0:
            raise ConfigError(
                "the trunk cannot be built like this",
                seen=f"width={self.width}, layers={self.layers}+{self.depth_layers}, heads={self.heads}, "
                f"window={self.window}, dropout={drops}",
                allowed="positive sizes, heads that divide half the width, dropout from 0 to below 1",
                fix="correct the model's configuration",
            )


class ItemTrunk(nn.Module):
    """The network.

    Args:
        config: sizes.
        space: of the SIDs.
        sids: int (I, L), the items' codes.
        prefix_rows: how many different tokens there are beside items (start, profile values, words of searches).
        prefix_length: how many of them stand before the items of a prompt.
        sessions: whether items that open a session have tokens of their own.
    """

    def __init__(
        self,
        config: TrunkConfig,
        space: SidSpace,
        sids: np.ndarray,
        *,
        prefix_rows: int = 1,
        prefix_length: int = 1,
        sessions: bool = False,
    ) -> None:
        from transformers import Qwen3ForCausalLM, Qwen3Model

        super().__init__()
        self.config, self.space, self.sessions = config, space, sessions
        self.prefix_rows, self.prefix_length = prefix_rows, prefix_length
        starts = [space.offset(level) for level in range(space.levels)]
        self.offsets: torch.Tensor
        self.register_buffer("offsets", torch.tensor(starts), persistent=False)
        self.code_rows: torch.Tensor
        self.register_buffer("code_rows", torch.from_numpy(sids.astype(np.int64)) + self.offsets, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            rows = space.num_tokens + prefix_rows + sessions
            self.trunk = Qwen3Model(self._shape(config.layers, rows, config.window + prefix_length))
            self.depth = Qwen3ForCausalLM(self._shape(config.depth_layers, space.num_tokens, space.levels + 1))
            self.bridge = nn.Linear(config.width, config.width, bias=False)
        self._dropping = Dropping(config.dropout)
        for decoder in (self.trunk, self.depth.model):
            decoder.set_attn_implementation("sdpa")
            layers: Any = decoder.layers
            for layer in layers:
                layer.self_attn.register_forward_hook(self._dropping)
                layer.mlp.register_forward_hook(self._dropping)
        self.scale = config.width**0.5

    def _shape(self, layers: int, rows: int, window: int) -> Any:
        from transformers import Qwen3Config

        config = self.config
        return Qwen3Config(
            vocab_size=rows,
            hidden_size=config.width,
            intermediate_size=round(config.width * config.ffn),
            num_hidden_layers=layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.width // config.heads,
            max_position_embeddings=window,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=False,
        )

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.code_rows)

    @property
    def first_prefix(self) -> int:
        """The prompt token of the first prefix row."""
        return self.num_items * (1 + self.sessions)

    @property
    def num_prompt_tokens(self) -> int:
        """V of prompts."""
        return self.first_prefix + self.prefix_rows

    def num_parameters(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def ground(self, first: int, vectors: np.ndarray) -> None:
        """Let prefix rows from ``first`` on start as a random projection of vectors (N, D), which keeps angles."""
        wide = vectors.shape[1]
        projection = np.random.default_rng(self.config.seed).standard_normal((wide, self.config.width)) / wide**0.5
        table = self.trunk.embed_tokens.weight
        told = torch.from_numpy(vectors.astype(np.float32) @ projection.astype(np.float32))
        told *= table.std() * self.config.width**0.5 / told.norm(dim=1, keepdim=True).clamp(min=1e-9)
        begin = self.space.num_tokens + first
        table[begin : begin + len(told)] = told.to(table)

    def vectors(self, tokens: torch.Tensor) -> torch.Tensor:
        """Input vectors (..., E) of prompt tokens int64 (...)."""
        table, codes = self.trunk.embed_tokens.weight, self.space.num_tokens
        is_item = tokens < self.first_prefix
        item = torch.where(is_item, tokens % self.num_items, 0)
        x = nn.functional.embedding(self.code_rows[item], table).sum(-2)
        if self.sessions:
            opens = is_item & (tokens >= self.num_items)
            x = x + opens[..., None] * table[codes + self.prefix_rows]
        row = codes + (tokens - self.first_prefix).clamp(min=0)
        return torch.where(is_item[..., None], x, nn.functional.embedding(row, table)) * self.scale

    def hidden(
        self, tokens: torch.Tensor, *, blank: torch.Tensor | None = None, spared: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Normed states (B, T, E) after prompts int64 (B, T), padded on the right.

        ``blank`` bool (B, T) zeroes inputs; from rows of ``spared`` bool (B,) nothing is dropped while training.
        """
        self._dropping.spared = spared
        x = self.vectors(tokens)
        if blank is not None:
            x = x.masked_fill(blank[..., None], 0.0)
        if self.training:
            x = self._dropping.on(x)
        out: torch.Tensor = self.trunk(inputs_embeds=x, attention_mask=_PLAIN, use_cache=False).last_hidden_state
        self._dropping.spared = None
        return out

    def states(self, hidden: torch.Tensor, codes: torch.Tensor, *, spared: torch.Tensor | None = None) -> torch.Tensor:
        """Normed states (M, n+1, E) of the depth decoder, one before each next code, after codes int64 (M, n < L)."""
        self._dropping.spared = spared
        written = self.depth.model.embed_tokens(codes + self.offsets[: codes.shape[1]]) * self.scale
        x = torch.cat([self.bridge(hidden)[:, None].to(written.dtype), written], dim=1)
        out: torch.Tensor = self.depth.model(inputs_embeds=x, attention_mask=_PLAIN, use_cache=False).last_hidden_state
        self._dropping.spared = None
        return out

    def logits(self, states: torch.Tensor, level: int) -> torch.Tensor:
        """Logits (M, C) of one level's codes after states (M, E)."""
        first = self.space.offset(level)
        return nn.functional.linear(states, self.depth.lm_head.weight[first : first + self.space.codes[level]])

    def save(self, directory: Path) -> None:
        """Write configuration and weights."""
        facts = {
            "config": asdict(self.config),
            "space": list(self.space.codes),
            "prefix_rows": self.prefix_rows,
            "prefix_length": self.prefix_length,
            "sessions": self.sessions,
        }
        (directory / CONFIG).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()},
                  directory / WEIGHTS)  # fmt: skip

    @classmethod
    def load(cls, directory: Path, sids: np.ndarray) -> ItemTrunk:
        """Read what ``save`` wrote, for a catalog with these SIDs (items may have been appended since)."""
        if not (directory / CONFIG).is_file():
            raise ArtifactError(
                f"there is no trunk model in {directory}",
                seen=f"no {CONFIG}",
                allowed="a model directory, as `genrecall train --shape trunk` writes it",
                fix="run `genrecall train`, or correct the path",
            )
        facts = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        model = cls(
            TrunkConfig(**facts["config"]),
            SidSpace(tuple(facts["space"])),
            sids,
            prefix_rows=facts["prefix_rows"],
            prefix_length=facts["prefix_length"],
            sessions=facts["sessions"],
        )
        model.load_state_dict(load_file(directory / WEIGHTS))
        return model.eval()
