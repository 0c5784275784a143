"""The README and the guides are run, not only read."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests import synthetic

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _run(script: str, directory: Path) -> None:
    """Run shell lines with `genrecall` standing for this interpreter's."""
    shim = directory / "bin"
    shim.mkdir(exist_ok=True)
    (shim / "genrecall").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m genrecall "$@"\n')
    (shim / "genrecall").chmod(0o755)
    environment = os.environ | {"PATH": f"{shim}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(["sh", "-ec", script], cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_the_first_command_comes_early_and_the_page_is_short() -> None:
    lines = README.splitlines()
    assert lines.index("make demo") < 15
    assert len(lines) < 150


def test_make_demo_is_the_quickstart() -> None:
    command = ["make", "--no-print-directory", "-n", "demo"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("genrecall quickstart")


def test_the_reference_of_verbs_is_current(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "typer", "genrecall.cli.main", "utils", "docs", "--name", "genrecall"]
    subprocess.run([*command, "--output", str(tmp_path / "cli.md")], cwd=ROOT, check=True, capture_output=True)
    fresh = (tmp_path / "cli.md").read_text(encoding="utf-8")
    assert (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8") == fresh, "run `make docs`"


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path) -> None:
    synthetic.write(tmp_path)
    _run(_blocks(README, "sh")[1], tmp_path)
    (program,) = _blocks(README, "python")
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=True,
    )


@pytest.mark.slow
def test_the_guide_runs(tmp_path: Path) -> None:
    synthetic.write(tmp_path)
    blocks = _blocks((ROOT / "docs/guides/your-data.md").read_text(encoding="utf-8"), "sh")
    judge = _blocks((ROOT / "docs/guides/evaluation.md").read_text(encoding="utf-8"), "sh")
    _run(blocks[0] + blocks[1] + "".join(judge), tmp_path)
