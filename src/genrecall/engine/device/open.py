"""What the search asks of a model, and which decoder runs which model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.decoder import Decoder, Prefix, Suffix
from genrecall.engine.device.trunk import TrunkDecoder
from genrecall.engine.device.weights import read_weights
from genrecall.kernels.beam_attention import BeamRows
from genrecall.model.trunk import ItemTrunk

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SidDecoder(Protocol):
    """Reads prompts once, then writes codes beam by beam; shapes as in ``Decoder``."""

    @property
    def window(self) -> int:
        """The most tokens of a prompt."""
        ...

    @property
    def vocabulary(self) -> int:
        """V of prompts."""
        ...

    @property
    def max_rows(self) -> int:
        """The most beams of a forward pass where the configuration names none."""
        ...

    def read(self, tokens: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, Prefix]:
        """Hidden states (R, E) that the first code is written from, and what the beams will look back at."""
        ...

    def step(
        self, tokens: torch.Tensor, depth: int, rows: BeamRows, ancestry: torch.Tensor, prefix: Prefix, suffix: Suffix
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (M, E) after one more code each, and the extended ancestry."""
        ...

    def level_logits(self, hidden: torch.Tensor, level: int) -> torch.Tensor:
        """float32 (M, C)."""
        ...


def open_decoder(
    model: PreTrainedModel | ItemTrunk, sid_tokens: Sequence[np.ndarray], *, device: torch.device, dtype: torch.dtype
) -> SidDecoder:
    """Copy a model's weights into the decoder that runs it.

    Raises:
        ConfigError: a model that the decoder would not compute rightly.
    """
    if isinstance(model, ItemTrunk):
        return TrunkDecoder.of(model, sid_tokens, device=device, dtype=dtype)
    shape = Architecture.read(model)
    return Decoder(shape, read_weights(model.state_dict(), shape, sid_tokens, device=device, dtype=dtype))
