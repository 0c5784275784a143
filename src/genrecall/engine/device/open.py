"""What the search asks of a model, and which decoder runs which model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.arithmetic import Arithmetic
from genrecall.engine.device.decoder import BeamRows, Decoder, PromptRows, Reading
from genrecall.engine.device.layers import Sum
from genrecall.engine.device.memory import PromptMemory, SuffixMemory
from genrecall.engine.device.sequence import ByTokens, Exchange
from genrecall.engine.device.shards import Blueprint, Shard
from genrecall.engine.device.trunk import TrunkDecoder
from genrecall.engine.device.weights import Weights, read_weights
from genrecall.model.trunk import ItemTrunk


class SidDecoder(Protocol):
    """Reads prompts once, then writes codes beam by beam; shapes as in ``Decoder``."""

    @property
    def architecture(self) -> Architecture:
        """Of what reads prompts: how much a page holds."""
        ...

    @property
    def weights(self) -> Weights:
        """Of what writes codes."""
        ...

    @property
    def window(self) -> int:
        """The most tokens of a prompt."""
        ...

    @property
    def vocabulary(self) -> int:
        """V of prompts."""
        ...

    @property
    def memory(self) -> PromptMemory:
        """Pages of prompts."""
        ...

    @property
    def suffix(self) -> SuffixMemory:
        """What beams add."""
        ...

    def allocate(
        self, *, pages: int, page_tokens: int, prompt_dtype: torch.dtype, suffix_rows: int, requests: int
    ) -> None:
        """Make room."""
        ...

    def wipe(self) -> None:
        """Overwrite what batches left behind outside the pages of prompts."""
        ...

    def read(self, tokens: torch.Tensor, rows: PromptRows) -> Reading:
        """Read packed prompt tokens int32 (T,)."""
        ...

    def step(self, tokens: torch.Tensor, *levels: BeamRows) -> torch.Tensor:
        """Hidden states (M, E) after one more code each; see ``Decoder``."""
        ...

    def level_logits(self, hidden: torch.Tensor, level: int) -> torch.Tensor:
        """float32 (M, C)."""
        ...


def open_decoder(
    model: Blueprint | ItemTrunk,
    sid_tokens: Sequence[np.ndarray],
    *,
    device: torch.device,
    dtype: torch.dtype,
    arithmetic: Arithmetic,
    shard: Shard | None = None,
    total: Sum | None = None,
    exchange: Exchange | None = None,
    tokens: int = 0,
) -> SidDecoder:
    """Copy a model's weights, or one rank's part of them, into the decoder that runs it.

    With ``exchange``, ranks read batches of so many ``tokens`` or more by tokens.

    Raises:
        ConfigError: a model that the decoder would not compute rightly.
    """
    if isinstance(model, ItemTrunk):
        return TrunkDecoder.of(model, sid_tokens, device=device, dtype=dtype, arithmetic=arithmetic)
    shard = shard or Shard()
    weights = read_weights(
        model.source, model.shape, sid_tokens, device=device, dtype=dtype, arithmetic=arithmetic, shard=shard,
        whole=exchange is not None,
    )  # fmt: skip
    by_tokens = None
    if exchange is not None:
        by_tokens = ByTokens(weights.whole, arithmetic, model.shape.epsilon, exchange, tokens)
    return Decoder(shard.of(model.shape), weights, arithmetic, total, by_tokens)
