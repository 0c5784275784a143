"""The guide on TensorFlow is run, not only read."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tf
ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/guides/tensorflow.md").read_text(encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_guide_runs(run: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copytree(run, tmp_path / "runs" / "shop")
    for name, line in (("genrecall", f"{shlex.quote(sys.executable)} -m genrecall"), ("python", sys.executable)):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (tmp_path / name).chmod(0o755)
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    script = "jobs_to_end() { kill $(jobs -p); wait; }\ntrap jobs_to_end EXIT\n"
    for language, text in blocks:
        script += text if language == "sh" else f"python - <<'PROGRAM'\n{text}PROGRAM\n"
    script = "".join(line for line in script.splitlines(keepends=True) if not line.startswith("pip install"))
    script = script.replace("8501", str(_free_port())).replace("/tmp/shop.sock", str(tmp_path / "shop.sock"))
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for told in (
        '"predictions":',
        '"outputs":',
        '"model_version":',
        "signature_def",
        "'serving_default'",
        "numpy=array([0, 0]",
    ):
        assert told in done.stdout, told
    assert '"code":' not in done.stdout


def test_the_recipe_names_every_source() -> None:
    sources = [path.name for path in (ROOT / "src/genrecall/graph/ops").glob("*.cc")]
    assert [name for name in sources if f'"{name}"' not in GUIDE] == []
