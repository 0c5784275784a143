"""The running experiments, and what ``genrecall ab report`` says of them, for the console."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from genrecall.errors import DataError
from genrecall.experiment.assignment import Layer
from genrecall.experiment.exposure import read_exposures
from genrecall.experiment.report import Happened, report
from genrecall.serve.arms import FILE
from genrecall.serve.config import ServeConfig
from genrecall.serve.state.state import State
from genrecall.telemetry import log

_FRESH_S = 30.0
_MOST_BYTES, _MOST_EVENTS = 64 << 20, 500_000
_COUNTED = ("click", "cart", "order")


class Experiments:
    """Reports of one service's layers; made in a thread, at most every half minute.

    Args:
        config: holds the layers, and where exposures are logged.
        state: holds the events.
    """

    def __init__(self, config: ServeConfig, state: State) -> None:
        self._layers, self._file, self._state = config.experiments, config.state / FILE, state
        self._making = asyncio.Lock()
        self._made: tuple[float, dict[str, Any]] | None = None

    async def summary(self) -> dict[str, Any]:
        """Layers with their arms and reports, and how old the reports are.

        ``why`` tells why there is no report: ``empty``, ``large`` (the command line reads logs of any size, without
        taking a service's time), or ``unreadable``.
        """
        async with self._making:
            if self._made is None or time.monotonic() - self._made[0] > _FRESH_S:
                made = await asyncio.to_thread(self._make)
                self._made = time.monotonic(), made
            return {**self._made[1], "age_s": round(time.monotonic() - self._made[0], 1)}

    def _make(self) -> dict[str, Any]:
        why = self._obstacle()
        layers: list[dict[str, Any]] = []
        for layer in self._layers:
            found: dict[str, Any] | None = None
            if not why:
                try:
                    found = report(layer, read_exposures(self._file), self._events())
                except DataError as error:
                    log(f"the report of {layer.name} was not made: {error}")
                    why = "unreadable"
            layers.append({**_told(layer), "report": found})
        return {"layers": layers, "why": why, "exposure_bytes": _size(self._file)}

    def _obstacle(self) -> str:
        size = _size(self._file)
        if size == 0:
            return "empty"
        return "large" if size > _MOST_BYTES or self._state.counts()["events"] > _MOST_EVENTS else ""

    def _events(self) -> list[Happened]:
        return [
            (event.user_id, event.item_id, float(event.timestamp or 0))
            for _, event in self._state.log()
            if event.item_id is not None and event.event in _COUNTED
        ]


def _told(layer: Layer) -> dict[str, Any]:
    arms = [
        {"name": name, "share": arm.share, "channels": arm.channels, "beam": arm.beam}
        for name, arm in layer.arms.items()
    ]
    return {"name": layer.name, "salt": layer.salt, "arms": arms}


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
