"""API keys: only hashes are stored, comparison takes the same time whatever is presented, and the file may change.

A file holds lines ``name sha256:<hex>``; ``#`` begins a comment. It is looked at again when its time or size changes,
so that keys are added and withdrawn without a restart.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from pathlib import Path

from genrecall.errors import ConfigError

_LINE = re.compile(r"([A-Za-z0-9_.-]{1,64}) sha256:([0-9a-f]{64})")
_LONGEST_KEY = 200


class Keys:
    """The keys of one file.

    Args:
        file: None lets everybody in.

    Raises:
        ConfigError: a line that cannot be read.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._hashes: list[tuple[str, bytes]] = []
        if file is not None:
            self._hashes, self._stamp = _read(file), _stamp(file)

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return self._file is not None

    def holder(self, authorization: str) -> str | None:
        """The name of the key in this header (``Bearer KEY``, or ``Basic`` with the key as password)."""
        presented = hashlib.sha256(_presented(authorization).encode()).digest()
        found = None
        for name, known in self._current():  # all of them, so that the time says nothing
            if hmac.compare_digest(presented, known):
                found = name
        return found

    def _current(self) -> list[tuple[str, bytes]]:
        assert self._file is not None
        try:
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._hashes, self._stamp = _read(self._file), stamp
        except (OSError, ConfigError):
            self._hashes, self._stamp = [], None  # a file that cannot be read opens no door
        return self._hashes


def add(file: Path, name: str) -> str:
    """Make a key, append its hash to a file, and return the key: the only time that it is seen."""
    key = "gr_" + secrets.token_urlsafe(32)
    line = f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    if not _LINE.fullmatch(line):
        raise ConfigError(
            "a key cannot have this name", seen=name, allowed="letters, digits, _ . -, at most 64", fix="choose another"
        )
    if not file.exists():
        file.touch(mode=0o600)
    # An editor or a secret store may have left the last line without its end.
    ended = file.read_bytes()[-1:] in (b"", b"\n")
    with file.open("a", encoding="utf-8") as stream:
        stream.write(("" if ended else "\n") + line + "\n")
    return key


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _read(file: Path) -> list[tuple[str, bytes]]:
    text = file.read_bytes().decode("utf-8", "replace")  # what is no text is no line that can be read
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    found = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(
                "a line of the key file cannot be read",
                seen=f"line {number} of {file}",
                allowed="name sha256:HEX",
                fix="make keys with `genrecall keys add NAME --file FILE`",
            )
        found.append((match[1], bytes.fromhex(match[2])))
    return found


def _presented(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value[: 2 * _LONGEST_KEY], validate=True).decode().partition(":")[2]
        except ValueError:  # not base64, not ASCII, not UTF-8
            return ""
    elif scheme.lower() != "bearer":
        return ""
    return value if len(value) <= _LONGEST_KEY else ""
