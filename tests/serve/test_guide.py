"""The guide on serving is run, not only read; the reference names what there is."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from genrecall.serve.problems import STATUS

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/guides/serving.md").read_text(encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_guide_runs(run: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copytree(run, tmp_path / "runs" / "shop")
    (tmp_path / "genrecall").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m genrecall "$@"\n')
    (tmp_path / "genrecall").chmod(0o755)
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("8080", str(_free_port())).splitlines(keepends=True)
    script = "".join(line for line in lines if not line.startswith("pip install"))
    script = "trap 'kill $server; wait $server' EXIT\n" + script.replace(" &\n", " &\nserver=$!\n")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for told in (
        '"coverage":',
        '"accepted":1',
        '"neighbours":',
        "genrecall_bundle_info{",
        "drains and stops",
        "gr_",
    ):
        assert told in done.stdout, told
    assert '"code":' not in done.stdout


def test_the_reference_names_every_code() -> None:
    page = (ROOT / "docs/reference/dialects.md").read_text(encoding="utf-8")
    assert [code for code in STATUS if f"`{code}`" not in page] == []
