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
from genrecall.engine.device.arithmetic import Arithmetic, in_blocks
from genrecall.engine.device.decoder import BeamRows, Decoder, PromptRows, Reading
from genrecall.engine.device.memory import PromptMemory, SuffixMemory
from genrecall.engine.device.shards import Held
from genrecall.engine.device.weights import Weights, read_weights
from genrecall.model.trunk import ItemTrunk

_PAGE = 16
"""Tokens of a page of the depth decoder's prompts, of which one is used: no kernel reads smaller pages quickly."""


class TrunkDecoder:
    """Trunk, bridge (E, E) and depth decoder."""

    def __init__(self, trunk: Decoder, bridge: torch.Tensor, depth: Decoder) -> None:
        self._trunk, self._bridge, self._depth = trunk, bridge, depth
        self._invariant = trunk.invariant

    @classmethod
    def of(
        cls,
        model: ItemTrunk,
        sid_tokens: Sequence[np.ndarray],
        *,
        device: torch.device,
        dtype: torch.dtype,
        arithmetic: Arithmetic,
    ) -> TrunkDecoder:
        """Copy the weights; ``sid_tokens`` number the depth decoder's rows."""
        with torch.no_grad():
            tokens = torch.arange(model.num_prompt_tokens, device=model.offsets.device)
            inputs = model.vectors(tokens)
        state = {f"model.{name}": tensor for name, tensor in model.trunk.state_dict().items()}
        state["model.embed_tokens.weight"] = inputs
        shape = replace(Architecture.read(model.trunk), vocabulary=len(inputs))
        weights = read_weights(Held(state), shape, [], device=device, dtype=dtype, arithmetic=arithmetic)
        trunk = Decoder(shape, weights, arithmetic)
        shape = Architecture.read(model.depth)
        state = model.depth.state_dict()
        weights = read_weights(Held(state), shape, sid_tokens, device=device, dtype=dtype, arithmetic=arithmetic)
        depth = Decoder(shape, replace(weights, embedding=weights.embedding * model.scale), arithmetic)
        return cls(trunk, model.bridge.weight.detach().to(device, dtype, copy=True), depth)

    @property
    def architecture(self) -> Architecture:
        """Of the trunk, which reads prompts."""
        return self._trunk.architecture

    @property
    def weights(self) -> Weights:
        """Of the depth decoder, which writes codes."""
        return self._depth.weights

    @property
    def window(self) -> int:
        """The most tokens of a prompt; the SID takes none of them."""
        return self._trunk.architecture.window

    @property
    def vocabulary(self) -> int:
        """Items and prefix rows."""
        return self._trunk.vocabulary

    @property
    def memory(self) -> PromptMemory:
        """The trunk's pages."""
        return self._trunk.memory

    @property
    def suffix(self) -> SuffixMemory:
        """The depth decoder's."""
        return self._depth.suffix

    def allocate(
        self, *, pages: int, page_tokens: int, prompt_dtype: torch.dtype, suffix_rows: int, requests: int
    ) -> None:
        """The depth decoder has a page for each place of a batch."""
        self._trunk.allocate(
            pages=pages, page_tokens=page_tokens, prompt_dtype=prompt_dtype, suffix_rows=0, requests=requests
        )
        plain = self._bridge.dtype  # one token a request: nothing to save
        self._depth.allocate(
            pages=requests, page_tokens=_PAGE, prompt_dtype=plain, suffix_rows=suffix_rows, requests=requests
        )
        place = torch.arange(requests, dtype=torch.int32, device=self._bridge.device)
        self._place, self._one, self._zero = place, torch.ones_like(place), torch.zeros_like(place)

    def wipe(self) -> None:
        """The depth decoder's pages belong to places, not to users: all of them."""
        self._depth.wipe()
        self._depth.memory.wipe(range(len(self._place)))

    def read(self, tokens: torch.Tensor, rows: PromptRows) -> Reading:
        """The trunk's last state, as the depth decoder has read it; the trunk's own keys are not needed any more."""
        state = self._trunk.prefill(self._trunk.embed(tokens), rows)
        places = len(state)
        place = self._place[:places]
        one = PromptRows(
            position=self._zero[:places],
            slot=place * _PAGE,
            ranges=rows.last_ranges,
            last=place,
            last_ranges=rows.last_ranges,
            table=place[:, None],
            length=self._one[:places],
        )
        vector = in_blocks(self._bridged, state) if self._invariant else self._bridged(state)
        hidden = self._depth.prefill(vector, one)
        return Reading(hidden=hidden, state=state, table=one.table, length=one.length)

    def _bridged(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self._bridge)

    def step(self, tokens: torch.Tensor, *levels: BeamRows) -> torch.Tensor:
        """The depth decoder's."""
        return self._depth.step(tokens, *levels)

    def level_logits(self, hidden: torch.Tensor, level: int) -> torch.Tensor:
        """The depth decoder's."""
        return self._depth.level_logits(hidden, level)
