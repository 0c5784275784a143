"""metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from genrecall.telemetry import log


class Journal:
    """Appends figures of a run; a resumed run first drops the lines after its checkpoint.

    Args:
        directory: holds ``metrics.jsonl`` and ``tensorboard/``.
        keep: how many lines the checkpoint knows of; 0 starts afresh.
    """

    def __init__(self, directory: Path, *, keep: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "metrics.jsonl"
        lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)[:keep] if self.file.exists() else []
        temporary = self.file.with_suffix(".new")
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, self.file)
        self._board = _board(directory / "tensorboard")

    def write(self, step: int, **figures: Any) -> None:
        """One line, and a point of every number in it."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **figures}) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._board is not None:
            self._board.close()


def _board(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log("tensorboard is not installed: figures go to metrics.jsonl alone")
        return None
    return SummaryWriter(str(directory))
