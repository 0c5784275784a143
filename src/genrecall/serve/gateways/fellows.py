"""What the processes of one service ask of each other, through the keeper's hub.

| kind | head | what each other process tells |
|---|---|---|
| explain | request_id | the explanation as JSON; nothing where the answer was not its own |
| forget | user_id | nothing: it has dropped what it answered to them |
| traffic | | its last minute (``Traffic.told``) |
| metrics | | its metrics (``Metrics.told``) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from genrecall.engine.worker.connection import Connection
from genrecall.engine.worker.frames import Frame
from genrecall.serve.problems import Problem
from genrecall.serve.service import Service
from genrecall.serve.shared import Relay

KINDS = ("explain", "forget", "traffic", "metrics")


def through(hub: Connection, name: str) -> Relay:
    """How the process of this name asks."""

    async def ask(kind: str, head: Mapping[str, Any]) -> dict[str, bytes]:
        reply = await hub.ask("relay", {"of": name, "ask": kind, "head": dict(head)})
        return {fellow: array.tobytes() for fellow, array in reply.arrays.items()}

    return ask


def tell(service: Service, measured: Callable[[], bytes], kind: str, head: Mapping[str, Any]) -> bytes:
    """What a process tells of itself."""
    if kind == "explain":
        try:
            return service.explained(head["request_id"])
        except Problem:
            return b""
    if kind == "forget":
        service.explanations.forget(head["user_id"])
        return b""
    return service.traffic.told() if kind == "traffic" else measured()


def frame_of(parts: Mapping[str, bytes]) -> Frame:
    """Several processes' words as a reply."""
    return Frame(head={"kind": "told"}, arrays={name: np.frombuffer(part, np.uint8) for name, part in parts.items()})
