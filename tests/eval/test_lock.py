from __future__ import annotations

from pathlib import Path

import pytest

from genrecall.errors import ArtifactError, ConfigError
from genrecall.eval.lock import Final, readings, times, unlock

RULES = {"split": "leave-one-out", "cases": 5, "protocol": "all rules"}


def test_validation_passes_and_leaves_no_trace(tmp_path: Path) -> None:
    final = Final(run=tmp_path, purpose="choosing")
    assert unlock("validation", None, **RULES) == unlock("validation", final, **RULES) == 0  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_readings_count_by_catalog_and_split(tmp_path: Path) -> None:
    def read(catalog: str, split: str, bundle: str = "b") -> int:
        final = Final(run=tmp_path / "new", purpose="a table", bundle=bundle, catalog=catalog)
        return unlock("test", final, split=split, cases=5, protocol="all rules")

    assert [read("c", "one"), read("c", "one", "other"), read("c", "two"), read("d", "one"), read("c", "one")] == [
        1, 2, 1, 1, 3,
    ]  # fmt: skip
    lines = readings(tmp_path / "new" / "test-readings.jsonl")
    assert [line["bundle"] for line in lines] == ["b", "other", "b", "b", "b"]
    assert set(lines[0]) == {"when", "purpose", "bundle", "catalog", "split", "cases", "protocol"}
    assert lines[0]["when"].endswith("+00:00")


@pytest.mark.parametrize("text", ['{"catalog": "c", "split": "s"', "[]\n", '{"catalog": "c"}\n', '{"catalog": 1}\nx'])
def test_a_damaged_ledger_stops_the_reading(tmp_path: Path, text: str) -> None:
    (tmp_path / "test-readings.jsonl").write_text(text)
    with pytest.raises(ArtifactError, match="damaged"):
        unlock("test", Final(run=tmp_path, purpose="x"), **RULES)  # type: ignore[arg-type]
    assert (tmp_path / "test-readings.jsonl").read_text() == text


def test_a_ledger_that_cannot_be_written_stops_the_reading(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        unlock("test", Final(run=tmp_path / "file", purpose="x"), **RULES)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="locked"):
        unlock("test", None, **RULES)  # type: ignore[arg-type]


def test_words() -> None:
    assert (times(1), times(3)) == ("once", "3 times")
