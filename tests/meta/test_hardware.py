"""What is recorded with a measurement."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from genrecall import hardware

ROOT = Path(__file__).resolve().parents[2]


def test_a_copy_says_which_commit_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRECALL_COMMIT", "abc1234")
    assert hardware.describe()["commit"] == "abc1234"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_a_checkout_knows_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENRECALL_COMMIT", raising=False)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert head.startswith(hardware.commit() or "none")
