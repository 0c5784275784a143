"""The test part is read on purpose, and every reading is written down.

A figure chosen among many on the test part owes some of its lead to luck (Dwork et al., "The reusable holdout",
Science 2015). So the evaluator refuses test cases without a :class:`Final`, and that appends a line to a ledger before
the first case is asked: a report can say how often its test split was read, and by how many bundles.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genrecall.errors import ArtifactError, ConfigError

LEDGER = "test-readings.jsonl"


@dataclass(frozen=True, kw_only=True)
class Final:
    """Leave to read the test part, for one purpose.

    Attributes:
        run: the run's directory; its ledger is ``test-readings.jsonl``.
        purpose: what the figures are for, for example the command.
        bundle: digest of what is judged; empty where there is none.
        catalog: digest of the data; empty where there is none.
    """

    run: Path
    purpose: str
    bundle: str = ""
    catalog: str = ""

    @property
    def ledger(self) -> Path:
        """The file that holds a line for every reading."""
        return self.run / LEDGER


def unlock(part: str, final: Final | None, *, split: str, cases: int, protocol: str) -> int:
    """Let validation cases pass; record a reading of test cases, or refuse it.

    Args:
        part: of the cases.
        final: leave to read the test part; nothing is recorded for validation cases.
        split: the rule that made the cases: readings of equal catalogs and rules are readings of one test split.
        cases: how many are asked.
        protocol: all rules, in words.

    Returns:
        How often this test split was read so far, this time included; 0 for validation cases.
    """
    if part != "test":
        return 0
    if final is None:
        raise ConfigError(
            "the test part is locked",
            seen=f"{cases:,} test cases, and no leave to read them",
            allowed="validation cases, or the test part once, for figures that are reported",
            fix="give --final (in Python: final=Final(run=..., purpose=...)); every reading is recorded",
        )
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "purpose": final.purpose,
        "bundle": final.bundle,
        "catalog": final.catalog,
        "split": split,
        "cases": cases,
        "protocol": protocol,
    }
    final.run.mkdir(parents=True, exist_ok=True)
    before = readings(final.ledger)
    _append(final.ledger, json.dumps(entry, ensure_ascii=False) + "\n")
    return 1 + sum((line["catalog"], line["split"]) == (final.catalog, split) for line in before)


def readings(ledger: Path) -> list[dict[str, Any]]:
    """All readings on record, oldest first; none where there is no ledger."""
    if not ledger.exists():
        return []
    text = ledger.read_text(encoding="utf-8")
    try:
        lines = [json.loads(line) for line in text.splitlines()]
        whole = (not text or text.endswith("\n")) and all({"catalog", "split"} <= line.keys() for line in lines)
    except (ValueError, AttributeError):
        whole = False
    if not whole:
        raise ArtifactError(
            f"{ledger} is damaged",
            seen="a line that is no reading",
            allowed="one JSON object a line, as it was appended",
            fix="restore the file from a copy, or move it away and say in the report that readings were lost",
        )
    return lines


def times(count: int) -> str:
    """``once``, ``2 times``, …"""
    return "once" if count == 1 else f"{count} times"


def _append(file: Path, line: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
