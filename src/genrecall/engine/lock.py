"""Who drives an engine: one thread at a time, in inference mode, on the engine's device."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


class Lock:
    """An engine's lock; the thread that has it is in inference mode, on the engine's device.

    Entered again within, it only counts: to make and enter both takes long after a pause.
    """

    def __init__(self, device: torch.device) -> None:
        self._lock, self._depth, self._device = threading.RLock(), 0, device
        self._mode, self._current = torch.inference_mode(), current(device)

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if self._depth == 0:
                self._current = current(self._device)  # anew: one that was left goes to where it came from
                self._current.__enter__()
                self._mode.__enter__()
            self._depth += 1
        except BaseException:  # a device that is lost: whoever comes next is to hear of it, too
            self._lock.release()
            raise

    def __exit__(self, *error: Any) -> None:
        self._depth -= 1
        try:
            if self._depth == 0:
                self._mode.__exit__(*error)
                self._current.__exit__(*error)
        finally:
            self._lock.release()


def current(device: torch.device) -> AbstractContextManager[object]:
    """Kernels are launched on whichever GPU is the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
