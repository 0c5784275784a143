"""Schemathesis over a running service: requests made from its own OpenAPI document, of all dialects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from genrecall.serve.http.keys import add
from genrecall.serve.listeners import http_server, listen
from tests.serve.world import serving

# Not positive_data_acceptance: whether a column, a channel or a signature exists is no matter of the schema.
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method",
    "allow_header_conformance", "ignored_auth",
)  # fmt: skip

# Beside the statuses that it takes for a refusal: a text so long that the body is over its limit is refused for that.
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"""


@dataclass(frozen=True, kw_only=True)
class Fuzzed:
    """What came of it: requests by HTTP status, and what schemathesis says of failures."""

    statuses: Counter[int]
    code: int
    told: str

    @property
    def cases(self) -> int:
        """Requests that were answered."""
        return sum(self.statuses.values())


def fuzz(url: str, key: str, out: Path, *, examples: int, phases: str, seed: int = 0) -> Fuzzed:
    """Run schemathesis; ``examples`` a phase and operation, at most."""
    report = out / "report.ndjson"
    (out / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json",
            "--header", f"Authorization: Bearer {key}",
            "--checks", ",".join(CHECKS), "--phases", phases, "--max-examples", str(examples), "--seed", str(seed),
            "--continue-on-failure", "--suppress-health-check", "all", "--request-timeout", "30", "--warnings", "off",
            "--report", "ndjson", "--report-ndjson-path", str(report),
        ],
        cwd=out, capture_output=True, text=True, check=False,
    )  # fmt: skip
    statuses: Counter[int] = Counter()
    with report.open(encoding="utf-8") as lines:
        for line in lines:
            _count(json.loads(line), statuses)
    return Fuzzed(statuses=statuses, code=done.returncode, told=(done.stdout + done.stderr)[-8000:])


def _count(value: object, statuses: Counter[int]) -> None:
    """Every recorded response of an event, wherever it lies in it."""
    if isinstance(value, dict):
        if isinstance(value.get("status_code"), int) and "headers" in value:
            statuses[value["status_code"]] += 1
        for inner in value.values():
            _count(inner, statuses)
    elif isinstance(value, list):
        for inner in value:
            _count(inner, statuses)


@contextlib.contextmanager
def listening(run: Path, place: Path) -> Iterator[tuple[str, str]]:
    """A service in a thread of this process, behind a real socket, with a key: its URL and the key."""
    key = add(place / "keys.txt", "fuzzer")
    told: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def scenario() -> None:
        async with serving(run, place / "state", keys=place / "keys.txt", port=0) as world:
            listener = listen(world.service.config)
            server: uvicorn.Server = http_server(world.gate)
            task = asyncio.create_task(server.serve(sockets=[listener]))
            told.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
            ready.set()
            await asyncio.to_thread(stop.wait)
            server.should_exit = True
            await task

    thread = threading.Thread(target=lambda: asyncio.run(scenario()), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield told[0], key
    finally:
        stop.set()
        thread.join(30)
