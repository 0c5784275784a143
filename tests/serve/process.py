"""`genrecall serve` as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrecall.serve.admin_client import ask


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running `genrecall serve`."""

    process: subprocess.Popen[str]
    port: int
    state: Path

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        kind = {} if body is None else {"content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), {**kind, **headers})
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        return answer.status, json.loads(raw) if answer.headers["content-type"].endswith("json") else raw.decode()

    def recommend(self, **asked: Any) -> dict[str, Any]:
        status, answer = self.call("POST", "/v1/recommend", asked)
        assert status == 200, answer
        return dict(answer)

    def worker_pid(self) -> int:
        done = subprocess.run(
            ["ps", "--ppid", str(self.process.pid), "-o", "pid=,args="], capture_output=True, text=True
        )
        return int(next(line for line in done.stdout.splitlines() if "worker.process" in line).split()[0])

    def admin(self, action: str, **body: Any) -> dict[str, Any]:
        return ask(self.state, "POST", f"/admin/{action}", body)


@contextlib.contextmanager
def serve(bundle: Path, state: Path, *more: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "genrecall", "serve", str(bundle), "--port", "0", "--state", str(state), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "120"})
    assert process.stdout is not None
    port, shown = 0, ""
    while not shown.rstrip().endswith("drains and stops"):
        line = process.stdout.readline()
        assert line or process.poll() is None, shown
        shown += line
        if found := re.search(r"console +http://127\.0\.0\.1:(\d+)/", line):
            port = int(found[1])
    try:
        yield Served(process=process, port=port, state=state)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)
