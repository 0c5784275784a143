"""An item trunk in the engine: two decoders, the second of which reads a prompt of one vector.

``h = Trunk(v_1 … v_t)_t`` once a request; then only the light depth decoder runs, once a beam and level, with ``B h``
as its whole prompt (see ``model.trunk``). Input vectors of all items are summed up beforehand, so the trunk is an
ordinary decoder whose vocabulary is the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.decoder import Decoder, Prefix, Suffix
from genrecall.engine.device.weights import read_weights
from genrecall.kernels.beam_attention import BeamRows
from genrecall.model.trunk import ItemTrunk


class TrunkDecoder:
    """Trunk, bridge (E, E) and depth decoder."""

    def __init__(self, trunk: Decoder, bridge: torch.Tensor, depth: Decoder) -> None:
        self._trunk, self._bridge, self._depth = trunk, bridge, depth

    @classmethod
    def of(
        cls, model: ItemTrunk, sid_tokens: Sequence[np.ndarray], *, device: torch.device, dtype: torch.dtype
    ) -> TrunkDecoder:
        """Copy the weights; ``sid_tokens`` number the depth decoder's rows."""
        with torch.no_grad():
            tokens = torch.arange(model.num_prompt_tokens, device=model.offsets.device)
            inputs = model.vectors(tokens)
        state = {f"model.{name}": tensor for name, tensor in model.trunk.state_dict().items()}
        state["model.embed_tokens.weight"] = inputs
        shape = replace(Architecture.read(model.trunk), vocabulary=len(inputs))
        trunk = Decoder(shape, read_weights(state, shape, [], device=device, dtype=dtype))
        shape = Architecture.read(model.depth)
        weights = read_weights(model.depth.state_dict(), shape, sid_tokens, device=device, dtype=dtype)
        depth = Decoder(shape, replace(weights, embedding=weights.embedding * model.scale))
        return cls(trunk, model.bridge.weight.detach().to(device, dtype), depth)

    @property
    def window(self) -> int:
        """The most tokens of a prompt; the SID takes none of them."""
        return self._trunk.architecture.window

    @property
    def max_rows(self) -> int:
        """A beam of the light decoder is so small that a GPU wants many at once."""
        return 32768 if self._bridge.device.type == "cuda" else 4096

    @property
    def vocabulary(self) -> int:
        """Items and prefix rows."""
        return self._trunk.vocabulary

    def read(self, tokens: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, Prefix]:
        """The trunk's last state, as the depth decoder has read it; the trunk's own keys are not needed any more."""
        hidden, _ = self._trunk.read(tokens, length)
        return self._depth.prefill(F.linear(hidden, self._bridge)[:, None], torch.ones_like(length))

    def step(
        self, tokens: torch.Tensor, depth: int, rows: BeamRows, ancestry: torch.Tensor, prefix: Prefix, suffix: Suffix
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The depth decoder's."""
        return self._depth.step(tokens, depth, rows, ancestry, prefix, suffix)

    def level_logits(self, hidden: torch.Tensor, level: int) -> torch.Tensor:
        """The depth decoder's."""
        return self._depth.level_logits(hidden, level)
