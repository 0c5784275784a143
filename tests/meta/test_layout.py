"""The promises that the repository makes about itself."""

import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from genrecall.serve.chaos.storage import dangerous

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "genrecall"
FILES = sorted(SOURCE.rglob("*.py"))


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_no_file_passes_the_hard_cap(file: Path) -> None:
    assert _lines(file) <= 500


def test_the_median_file_is_short() -> None:
    assert statistics.median(_lines(file) for file in FILES if _lines(file) > 5) <= 120


def test_where_is_table_points_to_things_that_exist() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Where is …?")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    paths = [path for row in rows for path in re.findall(r"`([^`]+)`", row.split("|")[2])]
    assert len(paths) > 25
    assert [path for path in paths if not (SOURCE / path).exists()] == []


def test_no_dump_packages() -> None:
    banned = {"utils", "common", "helpers", "misc", "base"}
    assert [f for f in FILES if banned & {*f.relative_to(SOURCE).with_suffix("").parts}] == []


def test_no_unsafe_deserialisation() -> None:
    assert dangerous() == []


def test_import_is_light() -> None:
    code = "import sys, genrecall; print([m for m in ('torch','transformers','pyarrow','numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_resolve_and_are_sorted() -> None:
    import genrecall

    assert list(genrecall.__all__) == sorted(genrecall.__all__)
    for name in genrecall.__all__:
        assert getattr(genrecall, name) is not None
    assert set(genrecall.__all__) <= set(dir(genrecall))


def test_engine_sid_train_and_eval_import_with_the_core_alone() -> None:
    optional = ["accelerate", "peft", "tensorboard", "sentence_transformers", "scipy", "matplotlib", "bm25s"]
    optional += ["starlette", "uvicorn", "msgspec", "lmdb", "prometheus_client"]
    code = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {optional!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import importlib.util
_find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.split('.')[0] in {optional!r} else _find(name, *a)
for package in ('sid.build', 'engine.engine', 'train.loop', 'eval.harness', 'recall.generative'):
    importlib.import_module('genrecall.' + package)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
