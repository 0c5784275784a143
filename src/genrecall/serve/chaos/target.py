"""A service as a process of its own, to be asked, loaded, stopped and killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrecall.errors import ConfigError
from genrecall.serve.admin_client import ask

_URL = re.compile(r"console +https?://127\.0\.0\.1:(\d+)/")
_READY = "drains and stops"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running `genrecall serve`.

    Attributes:
        process: the gateway.
        port: of its data listener.
        state: its directory.
    """

    process: subprocess.Popen[str]
    port: int
    state: Path

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request on a connection of its own: status, and the answer decoded."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        kind = {} if body is None else {"content-type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {**kind, **headers})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        is_json = (answer.headers["content-type"] or "").endswith("json")
        return answer.status, json.loads(raw) if is_json else raw.decode()

    def recommend(self, **asked: Any) -> dict[str, Any]:
        """An answer of ``/v1/recommend``."""
        status, answer = self.call("POST", "/v1/recommend", asked)
        assert status == 200, answer
        return dict(answer)

    def admin(self, action: str, **body: Any) -> dict[str, Any]:
        """POST to the admin socket."""
        return ask(self.state, "POST", f"/admin/{action}", body)

    def is_ready(self) -> bool:
        """Whether it says so."""
        return self.call("GET", "/health/ready")[0] == 200

    def pid(self, process: str = "worker 0") -> int:
        """Of a process beside the gateway: ``worker N`` or ``classic``.

        Raises:
            ConfigError: it does not run.
        """
        found = ask(self.state, "GET", "/admin/releases")["active"]["processes"]
        if not found.get(process):
            raise ConfigError("no such process runs", seen=process, allowed=str(found), fix="wait until it is back")
        return int(found[process])


@contextlib.contextmanager
def serving(
    bundle: Path, state: Path, *more: str, environment: Mapping[str, str] | None = None, guarded: bool = False
) -> Iterator[Target]:
    """Start a service on a free port, wait until it is ready, and stop it in the end.

    Args:
        bundle, state: directories.
        more: further options.
        environment: variables beside those of this process.
        guarded: it ends with this process, however that ends: nobody else could hold its state then.

    Raises:
        ConfigError: it ended before it was ready.
    """
    module = "genrecall.serve.cluster.guard" if guarded else "genrecall"
    command = [sys.executable, "-m", module, "serve", str(bundle), "--port", "0", "--state", str(state), *more]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE if guarded else None,
        stdout=subprocess.PIPE,
        text=True,
        # What is killed leaves semaphores to Python's resource tracker, which says so between our lines.
        env=os.environ | {"COLUMNS": "120", "PYTHONWARNINGS": "ignore:resource_tracker"} | dict(environment or {}),
    )
    assert process.stdout is not None
    port, told = 0, ""
    while _READY not in told:
        line = process.stdout.readline()
        if not line and process.poll() is not None:
            raise ConfigError(
                "the service did not start", seen=told[-500:] or "nothing said", allowed="a sound bundle",
                fix="run `genrecall serve` on it and read what it says",
            )  # fmt: skip
        told += line
        if found := _URL.search(line):
            port = int(found[1])
    # What it says later must not fill the pipe.
    threading.Thread(target=process.stdout.read, daemon=True).start()
    try:
        yield Target(process=process, port=port, state=state)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_until(condition: Any, within_s: float) -> float | None:
    """Seconds until a condition held; None if it did not in time."""
    begun = time.monotonic()
    while time.monotonic() - begun < within_s:
        if condition():
            return time.monotonic() - begun
        time.sleep(0.02)
    return None
