"""Lines of progress."""

from __future__ import annotations

import io

from rich.console import Console

from genrecall import telemetry


def test_figures_that_are_not_known_yet_are_left_out(monkeypatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(telemetry, "console", Console(file=out))
    monkeypatch.setattr(telemetry, "_PLAIN_EVERY_S", 0.0)
    with telemetry.progress("steps", 2) as bar:
        bar.advance(loss=float("nan"), rate=12345.678)
        bar.advance(loss=0.25, best=3)
    first, second = out.getvalue().splitlines()
    assert first.split()[1:4] == ["1/2", "rate", "1.235e+04,"]
    assert second.split()[1:6] == ["2/2", "loss", "0.25", "best", "3,"]


def test_a_total_that_becomes_known_gives_the_time_left(monkeypatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(telemetry, "console", Console(file=out))
    monkeypatch.setattr(telemetry, "_PLAIN_EVERY_S", 0.0)
    with telemetry.progress("steps") as bar:
        bar.advance()
        bar.expect(3)
        bar.expect(1)
        bar.advance()
    first, second = out.getvalue().splitlines()
    assert first.split() == ["steps:", "1"]
    assert second.split()[1] == "2/4"
    assert second.endswith("s left")


def test_a_bar_on_a_terminal_learns_its_total(monkeypatch) -> None:
    monkeypatch.setattr(telemetry, "console", Console(file=io.StringIO(), force_terminal=True))
    with telemetry.progress("steps") as bar:
        bar.expect(5)
        bar.advance(2)
        assert bar._progress is not None
        assert [(task.completed, task.total) for task in bar._progress.tasks] == [(2, 5)]
