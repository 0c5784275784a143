"""Integers on their way to the device: written into page-locked memory, copied to one address that graphs hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

Write = Callable[[np.ndarray], None]
"""Fills int32 of a size that is known before."""
_STAGES = 3
"""Batches whose integers may be on their way at once: two in flight and one being packed."""
SIZES = 1024
"""Sizes whose views are kept."""


def aligned(count: int) -> int:
    """Integers up to the next multiple of 16 bytes: kernels are compiled anew for pointers that do not lie on one."""
    return -(-count // 4) * 4


def laid_out(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Where fields of so many integers lie, each at a multiple of 16 bytes."""
    found, place = {}, 0
    for name, size in sizes.items():
        found[name] = slice(place, place + size)
        place += aligned(size)
    return found


class Staging:
    """One buffer on the device, and what fills it.

    Args:
        most: int32 that it holds.
        device: where.
    """

    def __init__(self, most: int, device: torch.device) -> None:
        self.flat = torch.zeros(most, dtype=torch.int32, device=device)
        pinned = _STAGES if device.type == "cuda" else 0
        self._staged = [torch.zeros(most, dtype=torch.int32, pin_memory=True) for _ in range(pinned)]
        self._sent = [torch.cuda.Event() for _ in range(pinned)]
        self._next = 0
        self._views: dict[int, tuple[torch.Tensor, list[tuple[torch.Tensor, np.ndarray]]]] = {}

    def send(self, size: int, write: Write) -> torch.Tensor:
        """Let ``write`` fill int32 (size,), and return them on the device, in stream order."""
        if size not in self._views:
            # Made once a size: a batch waits for it.
            if len(self._views) == SIZES:
                self._views.clear()
            staged = [(stage[:size], stage[:size].numpy()) for stage in self._staged]
            self._views[size] = self.flat[:size], staged
        flat, staged = self._views[size]
        if not staged:
            write(flat.numpy())
            return flat
        (pinned, numbers), sent, stream = staged[self._next], self._sent[self._next], torch.cuda.current_stream()
        self._next = (self._next + 1) % _STAGES
        sent.synchronize()
        write(numbers)
        flat.copy_(pinned, non_blocking=True)
        sent.record(stream)
        return flat

    def wipe(self) -> None:
        """Overwrite all that was ever sent."""
        for staged, sent in zip(self._staged, self._sent, strict=True):
            sent.synchronize()
            staged.zero_()
        self.flat.zero_()
