"""Where keys and values live: prompts in pages, beams in one block a layer.

    bytes = 2 · layers · K · D · (pages · P + S) · itemsize

Pages as in Kwon et al. 2023 (arXiv 2309.06180). We deviate for beams: what they add lies in a dense block of S rows
that is written once a level and never moved; a beam finds its own by ancestry (see ``kernels.paged_attention``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from genrecall.engine.device.architecture import Architecture


class PromptMemory:
    """Pages of one decoder: per layer keys and values (pages, K, P, D).

    ``slots`` is int32 (pages, P), on the host: the numbers of each page's tokens, 0, 1, 2 …
    """

    def __init__(
        self, shape: Architecture, *, pages: int, page_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_tokens, self.device = page_tokens, device
        self.slots = np.arange(pages * page_tokens, dtype=np.int32).reshape(pages, page_tokens)
        size = (shape.layers, pages, shape.kv_heads, page_tokens, shape.head_width)
        self._keys, self._values = _zeros(size, dtype, device), _zeros(size, dtype, device)
        self.keys, self.values = self._keys.unbind(), self._values.unbind()

    @property
    def nbytes(self) -> int:
        """Of all pages."""
        return 2 * self._keys.nbytes

    @property
    def page_shape(self) -> tuple[int, ...]:
        """Of a page's bytes: keys and values, layers, K, P, bytes of a head."""
        layers, _, *rest = self._keys.view(torch.uint8).shape
        return (2, layers, *rest)

    def read(self, pages: Sequence[int]) -> torch.Tensor:
        """uint8 (n, *page_shape), copies of pages; nothing here waits for the device."""
        chosen = self._numbers(pages)
        both = [tensor.view(torch.uint8).index_select(1, chosen) for tensor in (self._keys, self._values)]
        return torch.stack(both).permute(2, 0, 1, 3, 4, 5).contiguous()

    def write(self, pages: Sequence[int], block: torch.Tensor) -> None:
        """Put copies that ``read`` made into pages; nothing here waits for the device."""
        chosen = self._numbers(pages)
        for place, tensor in enumerate((self._keys, self._values)):
            tensor.view(torch.uint8).index_copy_(1, chosen, block[:, place].transpose(0, 1).contiguous())

    def wipe(self, pages: Sequence[int]) -> None:
        """Overwrite pages with zeros."""
        chosen = self._numbers(pages)
        for tensor in (self._keys, self._values):
            tensor.view(torch.uint8).index_fill_(1, chosen, 0)  # as bytes: fp8 has no fill of its own

    def _numbers(self, pages: Sequence[int]) -> torch.Tensor:
        """int64 on the device; from pageable memory the host would wait for all that its stream still has to do."""
        numbers = torch.tensor(list(pages), dtype=torch.int64)
        return numbers.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else numbers


class SuffixMemory:
    """What the beams of one batch add: per layer keys and values (S, K, D); grows where no graph holds its address."""

    def __init__(self, shape: Architecture, *, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape, self._dtype, self._device = shape, dtype, device
        self.rows = 0
        self.keys: tuple[torch.Tensor, ...] = ()
        self.values: tuple[torch.Tensor, ...] = ()
        self.reserve(rows)

    def reserve(self, rows: int) -> None:
        """Hold at least so many rows; what was in them is lost."""
        if rows <= self.rows:
            return
        shape = self._shape
        size = (shape.layers, rows, shape.kv_heads, shape.head_width)
        self.rows = rows
        self.keys = torch.empty(size, dtype=self._dtype, device=self._device).unbind()
        self.values = torch.empty(size, dtype=self._dtype, device=self._device).unbind()

    def wipe(self) -> None:
        """Overwrite the block with zeros."""
        for tensor in (*self.keys, *self.values):
            tensor.zero_()

    @property
    def nbytes(self) -> int:
        """Of the block."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    # numpy asks the system for zeros, which costs nothing until a page is written to; torch would write them.
    flat = torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, dtype=np.uint8))
    return flat.view(dtype).view(size)


def bytes_a_token(shape: Architecture, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_width * dtype.itemsize
