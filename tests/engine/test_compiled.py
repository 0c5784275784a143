"""Compiled kernels on disk: sealed ones stay, all others are compiled again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import torch

from genrecall.engine import compiled
from genrecall.engine.compiled import Compiled, use_cache
from genrecall.serve.worker.ranking import RankingDesk


def fill(folder: Path) -> None:
    for kernel in ("a", "b"):
        (folder / kernel).mkdir(exist_ok=True)
        (folder / kernel / "code.cubin").write_bytes(kernel.encode())
        (folder / kernel / "code.json").write_text("{}")


def reopened(folder: Path) -> Compiled:
    """As another process finds it: locks are one a process."""
    code = f"from genrecall.engine.compiled import Compiled; from pathlib import Path; Compiled(Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    return Compiled(folder)


def test_what_was_sealed_is_kept_and_the_rest_is_not(tmp_path):
    first = Compiled(tmp_path)
    fill(tmp_path)
    assert first.seal() == 4
    first._lock.close()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "code.cubin").write_bytes(b"never sealed")
    (tmp_path / "b" / "code.cubin").write_bytes(b"not what it was")
    again = Compiled(tmp_path)
    assert again.removed == 3, "a kernel's files are only good together"
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["code.cubin", "code.json"]
    assert not list((tmp_path / "b").iterdir())
    assert not list((tmp_path / "c").iterdir())
    again._lock.close()
    (tmp_path / "sealed.json").write_text("{half a manif")
    assert Compiled(tmp_path).removed == 2


def test_what_a_ranker_compiles_after_the_engine_is_sealed_too(tmp_path, monkeypatch):
    first = Compiled(tmp_path)
    monkeypatch.setattr(compiled, "_open", {tmp_path: first})
    first.seal()  # as the engine's warm-up leaves it
    ranker: Any = SimpleNamespace(
        tables=SimpleNamespace(names=[]), device=torch.device("cuda"), warm_up=lambda: fill(tmp_path)
    )
    RankingDesk(ranker, Mock())
    first._lock.close()
    assert reopened(tmp_path).removed == 0
    assert (tmp_path / "a" / "code.cubin").exists()


def test_a_folder_in_use_is_left_alone(tmp_path):
    first = Compiled(tmp_path)
    fill(tmp_path)  # being written, not sealed yet
    assert reopened(tmp_path).removed == 0
    assert (tmp_path / "a" / "code.cubin").exists()
    first._lock.close()


def test_what_others_move_while_it_is_sealed_is_left_out(tmp_path, monkeypatch):
    """Replicas and ranks compile into one folder: Triton writes to a place beside, then renames."""
    first = Compiled(tmp_path)
    fill(tmp_path)
    checksum = compiled._sha256

    def moved(file: Path) -> str:
        if file.parent.name == "b":
            file.unlink()
        return checksum(file)

    monkeypatch.setattr(compiled, "_sha256", moved)
    assert first.seal() == 2
    first._lock.close()


def test_nothing_is_compiled_for_a_cpu(tmp_path):
    assert use_cache(torch.device("cpu"), tmp_path) is None
    assert not list(tmp_path.iterdir())
