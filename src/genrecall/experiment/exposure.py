"""What users of an experiment were shown: one JSON line an answer, appended in the background."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path

from genrecall.errors import DataError

_MOST_WAITING, _A_WRITE = 100_000, 256


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One answer to a user of an experiment.

    Attributes:
        time: UTC seconds.
        user_id, request_id: whose, and which.
        arms: arm by layer.
        items: ids that were answered, best first.
        total_ms, degraded, filled, k: how the answer was, for guardrails.
        layer: that the list was interleaved for; empty where it was not.
        teams: the arm that owns each item of an interleaved list; empty words for items that filled it up.
        found: channels that found each item.
        propensities: how likely each item stood at its place; empty where the arm does not explore.
    """

    time: float
    user_id: str
    request_id: str
    arms: dict[str, str]
    items: list[str]
    total_ms: float
    degraded: bool
    filled: int
    k: int
    layer: str = ""
    teams: list[str] = field(default_factory=list)
    found: list[list[str]] = field(default_factory=list)
    propensities: list[float] = field(default_factory=list)


class ExposureLog:
    """Appends to a file, as other gateways may; never holds an answer up.

    Attributes:
        lost: lines that were dropped because the disk did not keep up; a report must be told.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._waiting: queue.Queue[Exposure | None] = queue.Queue(_MOST_WAITING)
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="exposures", daemon=True)
        self._thread.start()

    def append(self, exposure: Exposure) -> None:
        """Log one answer soon."""
        try:
            self._waiting.put_nowait(exposure)
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Write what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        # Unbuffered: whole lines in one write each time, which the system does not mix with those of other gateways.
        with self._file.open("ab+", buffering=0) as stream:
            ends = False
            while not ends:
                batch = [self._waiting.get()]
                while len(batch) < _A_WRITE and not self._waiting.empty():
                    batch.append(self._waiting.get())
                ends = None in batch
                lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in batch if one is not None]
                if lines:
                    stream.write((_end_of_line(stream) + "".join(lines)).encode())


def _end_of_line(stream: FileIO) -> str:
    """What ends a line that a kill has cut off."""
    size = os.fstat(stream.fileno()).st_size
    return "" if size == 0 or os.pread(stream.fileno(), 1, size - 1) == b"\n" else "\n"


def read_exposures(file: Path) -> Iterator[Exposure]:
    """All exposures of a file; a line that was cut off by a kill is left out.

    Raises:
        DataError: another line that cannot be read.
    """
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield Exposure(**json.loads(line))
            except (ValueError, TypeError) as error:
                if not line.rstrip("\n").endswith("}"):
                    continue
                raise DataError(
                    "a line of the exposure log cannot be read",
                    seen=f"line {number} of {file}: {error}",
                    allowed="the lines that the service writes",
                    fix="remove the line, and find out who wrote it",
                ) from None
