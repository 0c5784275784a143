"""Asks a running service over its admin socket; imports nothing heavy, so that `genrecall release` is quick."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from genrecall.errors import ConfigError

SOCKET = "admin.sock"
_PATIENCE_S = 900


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(str(self._path))


def ask(state: Path, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send one request to the service whose state this is.

    Raises:
        ConfigError: no service runs with this state, or it refuses.
    """
    connection = _OverSocket(state / SOCKET)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        told = json.loads(answer.read())
    except (FileNotFoundError, ConnectionRefusedError):
        raise ConfigError(
            "no service runs with this state",
            seen=str(state / SOCKET),
            allowed="the --state of a running `genrecall serve`",
            fix="start it, or correct --state",
        ) from None
    finally:
        connection.close()
    if answer.status >= 400:
        parts = told.get("parts") or {
            "what": told["title"],
            "seen": told["detail"] or told["code"],
            "allowed": "what its state permits",
            "fix": "see the service's log, correct it and ask again",
        }
        raise ConfigError(f"the service refused: {parts.pop('what')}", **parts)
    return dict(told)
