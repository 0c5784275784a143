"""What clients may send: nonsense in every dialect, too much of it, too slowly, without a key, over old TLS."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any, cast

import msgspec

from genrecall.serve.chaos.scenario import Setting, asking
from genrecall.serve.chaos.target import Target, serving
from genrecall.serve.http.app import data_routes
from genrecall.serve.http.gate import OPEN
from genrecall.serve.http.health import Health
from genrecall.serve.http.keys import add
from genrecall.serve.problems import STATUS
from genrecall.serve.schema import Answer
from genrecall.serve.service import Service

_VALUES: list[object] = [
    None, -1, 0, 1, 5, 1e308, "", "x" * 500, "\u0000", "𝕏", [], {}, [[]], True, {"a": 1}, "../../etc/passwd", [1, "a"],
    ["popularity"], [{"column": "title", "any_of": ["x"]}], [{"role": "user", "content": "red"}],
    [{"name": "history", "datatype": "BYTES", "shape": [1, 1], "data": ["1"]}], [{"user_id": "1"}],
]  # fmt: skip
_NAMES = ["user_id", "history", "k", "beam", "channels", "filters", "profile", "query", "deadline_ms", "model", "n",
          "messages", "inputs", "instances", "events", "outputs", "spread", "exclude", "explain",
          "scenario"]  # fmt: skip
_PATHS = ["/v1/recommend", "/v1/search", "/v1/events", "/v2/models/pipeline/infer", "/v1/chat/completions",
          "/v1/models/pipeline:predict", "/v1/items/%00", "/v1/explain/..%2f", "/console/..%2fapi.py"]  # fmt: skip
_LEAKS = ("Traceback", "/src/", "site-packages", ".sock", 'File \\"')


def hostile(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Nonsense, in every dialect: refused in words, never by a fault; what is answered is an answer."""
    assert target is not None
    rng, count, faults, leaks, odd = random.Random(0), setting.times(1500, 20_000), 0, 0, 0
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
    home = str(setting.bundle.resolve().parent)
    for _ in range(count):
        path, body = rng.choice(_PATHS), {rng.choice(_NAMES): rng.choice(_VALUES) for _ in range(rng.randint(0, 4))}
        raw = json.dumps(body).encode()
        if rng.random() < 0.2:
            cut = rng.randrange(len(raw))
            raw = raw[:cut] + bytes([rng.randrange(256)]) + raw[cut + 1 :]
        method = rng.choice(["POST", "POST", "POST", "GET", "PUT"])
        connection.request(method, path, raw, {"content-type": "application/json"})
        reply = connection.getresponse()
        told = reply.read()
        text = told.decode(errors="replace")
        faults += reply.status >= 500 and reply.status != 503
        leaks += any(word in text for word in (*_LEAKS, home))
        odd += not _as_described(reply.status, path, told, reply.headers.get("content-type", ""))
    connection.close()
    text = f"{count} requests: {faults} server errors, {leaks} leaks, {odd} answers that are none"
    return text, faults == leaks == odd == 0


def _as_described(status: int, path: str, body: bytes, kind: str) -> bool:
    try:
        if status == 200 and path in ("/v1/recommend", "/v1/search"):
            msgspec.json.decode(body, type=Answer)
        elif status >= 400 and kind.startswith("application/problem+json"):
            told = json.loads(body)
            return told["code"] in STATUS and STATUS[told["code"]] == status and bool(told["request_id"])
    except (msgspec.MsgspecError, KeyError, ValueError):
        return False
    return status < 400 or kind.startswith("application/problem+json")


def oversized(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Bodies, lists and beams that are too large, and 200 clients that never finish: others do not notice."""
    assert target is not None
    nested: object = 1
    for _ in range(900):
        nested = [nested]
    wrong: list[tuple[Any, int]] = [
        ({"query": "x" * (2 << 20)}, 413), ({"history": ["1"] * 1001}, 422), ({"beam": 10**6}, 422),
        ({"k": 10**6}, 422), ({"filters": nested}, 422), ({"exclude": ["x"] * 5000}, 422),
    ]  # fmt: skip
    let_in = sum(_said(target, body) not in (status, 0) for body, status in wrong)
    with socket.create_connection(("127.0.0.1", target.port)) as endless:
        endless.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
                        b"content-type: application/json\r\n\r\n")  # fmt: skip
        sent = 0
        try:
            while sent < 64 << 20:
                endless.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass  # the service has hung up
    before = _median(setting, target)
    slow = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(200)]
    for connection in slow:
        connection.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n")
    beside = _median(setting, target)
    with asking(setting, target) as seen:
        time.sleep(1.0)
    for connection in slow:
        connection.close()
    text = f"{let_in} of {len(wrong)} let in; an endless body ended after {sent >> 20} MiB; beside 200 slow clients "
    text += f"the median is {beside / before - 1:+.0%}, {seen}"
    return text, let_in == 0 and sent < 32 << 20 and not seen.failures and beside <= 1.5 * before


def _said(target: Target, body: Any) -> int:
    """The status; 0 where the service hung up before all was sent."""
    try:
        return target.call("POST", "/v1/recommend", body)[0]
    except ConnectionError:
        return 0


def _median(setting: Setting, target: Target) -> float:
    async def ask() -> float:
        client = setting.client(target)
        found = sorted((await client.open(10.0, 4.0)).latency_s)
        client.close()
        return found[len(found) // 2]

    return asyncio.run(ask())


def locked(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Every route without a key; a key that is withdrawn; old TLS, a foreign authority, a renewed certificate."""
    if shutil.which("openssl") is None:
        return "not tried: there is no openssl here to make certificates with", False
    directory = setting.scratch / "tls"
    directory.mkdir()
    chain, private = _certificate(directory, "first")
    keys = directory / "keys"
    key = add(keys, "chaos")
    nobody = cast(Service, None)  # routes alone: nobody asks the handlers
    routes = data_routes(nobody, Health(nobody))
    options = ["--classic-only", "--keys", str(keys), "--tls-cert", str(chain), "--tls-key", str(private)]
    with serving(setting.bundle, setting.scratch / "locked", *options) as own:
        known = ssl.create_default_context(cadata=chain.read_text())
        known.check_hostname = False
        opened = []
        for route in routes:
            path = re.sub(r"{[^}]*}", "x", route.path)
            for method in route.methods or ():
                status = _status(own.port, known, method, path)
                if (status == 401) == (path in OPEN):
                    opened.append(f"{method} {path} {status}")
        entered = _status(own.port, known, "GET", "/v1/users", key)
        told = Path(f"/proc/{own.process.pid}/cmdline").read_bytes().decode()
        refused = [
            _refused(own.port, _old()),
            _refused(own.port, ssl.create_default_context()),  # its authority is unknown
        ]
        kept_open = http.client.HTTPSConnection("127.0.0.1", own.port, context=known, timeout=10)
        kept_open.request("GET", "/health/live")
        kept_open.getresponse().read()
        _certificate(directory, "second one")
        keys.write_text("")
        time.sleep(6.0)  # the files are looked at every 5 s
        kept_open.request("GET", "/health/live")
        still = kept_open.getresponse().status
        kept_open.close()
        fresh = ssl.create_default_context(cadata=chain.read_text())
        fresh.check_hostname = False
        renewed = _status(own.port, fresh, "GET", "/health/live")
        withdrawn = _status(own.port, fresh, "GET", "/v1/users", key)
    text = (
        f"{len(routes)} routes, {len(opened)} wrongly open or shut {opened[:2] or ''}; key {entered}, withdrawn "
        f"{withdrawn}; refused: old TLS {refused[0]}, foreign authority {refused[1]}; renewed {renewed}, old "
        f"connection {still}; key in argv: {key in told}"
    )
    kept = not opened and (entered, withdrawn, renewed, still) == (200, 401, 200, 200) and all(refused)
    return text, kept and key not in told


def _status(port: int, context: ssl.SSLContext, method: str, path: str, key: str | None = None) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    try:
        connection.request(method, path, headers={} if key is None else {"authorization": f"Bearer {key}"})
        return connection.getresponse().status
    finally:
        connection.close()


def _refused(port: int, context: ssl.SSLContext) -> bool:
    context.check_hostname = False
    try:
        _status(port, context, "GET", "/health/live")
    except (ssl.SSLError, ConnectionError):
        return True
    return False


def _old() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def _certificate(directory: Path, name: str) -> tuple[Path, Path]:
    chain, key = directory / "chain.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(chain), "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return chain, key


def measured(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """What is measured: few series, no user in them, stages that add up to the whole."""
    assert target is not None
    gaps = []
    for user in (setting.users * 20)[:20]:
        timing = target.recommend(user_id=user, k=5)["timing_ms"]
        gaps.append(sum(timing[stage] for stage in ("state", "channels", "rank", "fusion")) / timing["total"])
    text = target.call("GET", "/metrics")[1]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    broken = [line for line in lines if not re.fullmatch(r'[a-z_]+(\{([a-z_]+="[^"]*",?)*\})? [-+0-9.eEInfNa]+', line)]
    named = [user for user in setting.users[:50] if f'"{user}"' in text]
    covered = min(gaps)
    told = f"{len(lines)} series, {len(broken)} unreadable, {len(named)} users in them; stages cover {covered:.0%}"
    return told, len(lines) <= 2000 and not broken and not named and covered >= 0.95
