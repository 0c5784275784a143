"""Progress, stage times and log lines: bars on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
_PLAIN_EVERY_S = 10.0

console = Console(stderr=True, highlight=False)


def log(message: str) -> None:
    """One line for people on standard error."""
    console.print(message, markup=False, soft_wrap=True)


class Bar:
    """One running task: ``advance`` it, with named figures (loss, rows/s) that are shown beside it."""

    def __init__(self, label: str, total: int | None, progress: Progress | None) -> None:
        self.label, self.total, self.done = label, total, 0
        self._progress = progress
        self._task = progress.add_task(label, total=total, figures="") if progress else None
        self._start = self._last = time.monotonic()

    def expect(self, steps: int) -> None:
        """There are so many more steps than was known so far."""
        self.total = (self.total or 0) + steps
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=self.total)

    def advance(self, steps: int = 1, **figures: object) -> None:
        """Move on by ``steps``; figures are printed with up to four significant digits, NaN not at all."""
        self.done += steps
        text = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in figures.items()
            if value == value
        )
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self.done, figures=text)
            return
        now = time.monotonic()
        if now - self._last >= _PLAIN_EVERY_S:
            self._last = now
            left = f", {(now - self._start) / self.done * (self.total - self.done):.0f} s left" if self.total else ""
            log(f"{self.label}: {self.done}{f'/{self.total}' if self.total else ''} {text}{left}")


@contextlib.contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Bar]:
    """A progress bar for work of more than two seconds."""
    if not console.is_terminal:
        yield Bar(label, total, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bars:
        yield Bar(label, total, bars)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar."""
    with progress(label, total) as bar:
        for item in items:
            yield item
            bar.advance()


class Stages:
    """Wall seconds of the named stages of one run, in the order they ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage and say when it ends."""
        start = time.perf_counter()
        log(f"• {name} …")
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + round(time.perf_counter() - start, 2)
        log(f"  {name}: {self.seconds[name]:.1f} s")
