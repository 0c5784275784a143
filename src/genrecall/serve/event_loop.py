"""The event loop of every process of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes uvloop's event loop, where that is installed; Python's own else."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
