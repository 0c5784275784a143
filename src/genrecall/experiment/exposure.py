"""What users of an experiment were shown: one JSON line an answer, appended in the background."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from genrecall.errors import DataError

_MOST_WAITING = 100_000


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


class ExposureLog:
    """Appends to a file; never holds an answer up.

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
        with self._file.open("a", encoding="utf-8") as stream:
            while (exposure := self._waiting.get()) is not None:
                stream.write(json.dumps(asdict(exposure), ensure_ascii=False) + "\n")
                if self._waiting.empty():
                    stream.flush()


def read_exposures(file: Path) -> Iterator[Exposure]:
    """All exposures of a file; a last line that was cut off by a kill is left out.

    Raises:
        DataError: another line that cannot be read.
    """
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield Exposure(**json.loads(line))
            except (ValueError, TypeError) as error:
                if not line.endswith("\n"):
                    return
                raise DataError(
                    "a line of the exposure log cannot be read",
                    seen=f"line {number} of {file}: {error}",
                    allowed="the lines that the service writes",
                    fix="remove the line, and find out who wrote it",
                ) from None
