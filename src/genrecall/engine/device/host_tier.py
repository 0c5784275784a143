"""Pages in host memory, and the copies between it and the device on a stream of their own.

    bytes = slots · 2 · layers · K · P · D · itemsize,    a copy takes bytes / (PCIe rate) and no time of the batches

Pages lie anywhere on the device and are gathered there; slots of a prompt mostly lie side by side, and each run of them
is one copy: page by page, launching takes longer than the bus does. Copies run beside batches, because they touch no
page that one of these reads or writes (see ``host.tier``); the next batch waits for those that were decided before it,
which have usually ended by then. Of several ranks the first decides for all: a batch that has ended there has passed
its last sum, and every rank adds to that only after its last look at pages, so that none that lags behind still reads
what is being copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from genrecall.engine.device.memory import PromptMemory
from genrecall.engine.host.tier import Move, Way


class HostTier:
    """Slots of page-locked memory where there is a GPU.

    Args:
        memory: the pages.
        slots: how many of them the host holds.
    """

    def __init__(self, memory: PromptMemory, slots: int) -> None:
        self._memory = memory
        self.device = memory.device
        cuda = self.device.type == "cuda"
        self.held = torch.zeros(slots, *memory.page_shape, dtype=torch.uint8, pin_memory=cuda)
        self._stream = torch.cuda.Stream(self.device) if cuda else None
        self._done = torch.cuda.Event() if cuda else None
        self._awaited = True

    def run(self, moves: Sequence[Move]) -> None:
        """Start copies, in order."""
        if self._stream is None or self._done is None:
            self._copy(moves)
            return
        with torch.cuda.stream(self._stream):
            self._copy(moves)
            self._done.record()
        self._awaited = False

    def wait(self) -> None:
        """Whatever is launched from now on, in the one stream of all batches, finds the copies done; the host does not
        wait.
        """
        if self._done is not None and not self._awaited:
            torch.cuda.current_stream(self.device).wait_event(self._done)
            self._awaited = True

    def fence(self) -> None:
        """Copies that are started from now on find what was launched before done: pages that were wiped."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def wipe(self, slots: Sequence[int]) -> None:
        """Overwrite slots with zeros, once the copies have ended."""
        if self._done is not None:
            self._done.synchronize()
        self.held[list(slots)] = 0

    def _copy(self, moves: Sequence[Move]) -> None:
        for way, group in groupby(moves, key=lambda move: move.way):
            some = sorted(group, key=lambda move: move.slot)  # stable: of two copies into a slot the later one stays
            pages = [move.page for move in some]
            if way is Way.OFFLOAD:
                block = self._memory.read(pages)
                for places, slots in _runs([move.slot for move in some]):
                    self.held[slots].copy_(block[places], non_blocking=True)
            else:
                block = torch.empty(len(some), *self.held.shape[1:], dtype=torch.uint8, device=self.device)
                for places, slots in _runs([move.slot for move in some]):
                    block[places].copy_(self.held[slots], non_blocking=True)
                self._memory.write(pages, block)


def _runs(slots: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Places of ascending slots that follow each other, and these slots."""
    begin = 0
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] != slots[end - 1] + 1:
            yield slice(begin, end), slice(slots[begin], slots[end - 1] + 1)
            begin = end
