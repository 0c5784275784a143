"""Immutable directories with a checksummed manifest: the only way anything is stored.

An artifact is written to a hidden sibling directory, fsynced, and swapped into place, so a reader
sees the old artifact or the new one and never a mixture, whatever kills the writer. Its digest covers kind, schema,
configuration, parents' digests and every file's SHA-256, and nothing that differs between two equal runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genrecall.errors import ArtifactError

SCHEMA = 1
MANIFEST = "manifest.json"
_TEMPORARY = ".writing-"
_OLD = ".old-"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact says of itself; ``facts`` (times, machines) are checked, too, but are no part of the digest."""

    kind: str
    config: dict[str, Any]
    parents: dict[str, str]
    files: dict[str, dict[str, Any]]
    digest: str
    schema: int
    facts: dict[str, Any] = field(default_factory=dict)
    facts_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """``sha256:…`` of everything that defines the artifact."""
        return self.manifest.digest

    def file(self, name: str) -> Path:
        """Path of one of the artifact's files."""
        if name not in self.manifest.files:
            raise ArtifactError(
                f"{self.path} has no file {name}",
                seen=", ".join(sorted(self.manifest.files)) or "no files",
                allowed=f"an artifact of kind {self.manifest.kind} that holds {name}",
                fix="write the artifact again with this version of genrecall",
            )
        return self.path / name


@dataclass
class Writer:
    """Handed to the block that fills an artifact: put files under ``path``, remarks into ``facts``."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)


def canonical_json(value: Any) -> str:
    """JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # numpy scalars
        return value.item()
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} does not belong in a manifest")


@contextlib.contextmanager
def write_artifact(
    path: Path | str, *, kind: str, config: Any, parents: Mapping[str, str] | None = None
) -> Iterator[Writer]:
    """Write one artifact atomically; on any exception nothing of it remains.

    Args:
        path: the directory to create or to replace.
        kind: what it is ("catalog", "vectors", "sid", "model", "bundle", …).
        config: JSON-able mapping or dataclass: the resolved configuration that made it.
        parents: digests of the artifacts it was made from, by role.
    """
    target = Path(path)
    _require_place(target)
    for leftover in target.parent.glob(f"{_TEMPORARY}{target.name}-*"):
        _sweep(leftover)
    temporary = target.parent / f"{_TEMPORARY}{target.name}-{secrets.token_hex(6)}"
    temporary.mkdir()
    held = _lock(temporary)
    try:
        writer = Writer(temporary)
        yield writer
        files = {}
        for file in sorted(p for p in temporary.rglob("*") if p.is_file()):
            _fsync(file)
            files[file.relative_to(temporary).as_posix()] = {"sha256": sha256(file), "bytes": file.stat().st_size}
        body = {
            "kind": kind,
            "schema": SCHEMA,
            "config": json.loads(canonical_json(config)),
            "parents": dict(parents or {}),
            "files": files,
        }
        facts = json.loads(canonical_json(writer.facts))
        manifest = {**body, "digest": _digest(body), "facts": facts, "facts_sha256": _digest(facts)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _fsync(temporary / MANIFEST)
        for directory in (p for p in temporary.rglob("*") if p.is_dir()):
            _fsync(directory)
        _fsync(temporary)
        _swap(temporary, target)
        _fsync(target.parent)
    except Exception as error:
        if not _disk_is_full(error, target.parent):
            raise
        raise ArtifactError(
            f"the disk is full: {target} was not written; what stood there before is untouched",
            seen=f"{shutil.disk_usage(target.parent).free / 1e6:.0f} MB free",
            allowed="room for the whole artifact beside the old one",
            fix="free some space or choose another output directory, then run the same command again",
        ) from error
    finally:
        if held is not None:
            os.close(held)
        shutil.rmtree(temporary, ignore_errors=True)


def open_artifact(path: Path | str, *, kind: str | None = None, verify: bool = True) -> Artifact:
    """Open a finished artifact and check it: manifest, kind, and (``verify``) every file's checksum."""
    path = Path(path)
    _recover(path)
    try:
        raw = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(**raw)
    except (FileNotFoundError, NotADirectoryError):
        seen = (
            f"a directory without {MANIFEST}" if path.is_dir() else "a file" if path.exists() else "no such directory"
        )
        raise ArtifactError(
            f"there is no artifact at {path}",
            seen=seen,
            allowed=f"an artifact of kind {kind}" if kind else "an artifact",
            fix="run the stage that writes it, or correct the path",
        ) from None
    except (ValueError, TypeError) as error:
        raise _damaged(path, f"unreadable {MANIFEST}: {error}") from None
    if manifest.schema != SCHEMA:
        raise ArtifactError(
            f"{path} was written with another schema", seen=manifest.schema, allowed=str(SCHEMA), fix="write it again"
        )
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(
            f"{path} is of another kind", seen=manifest.kind, allowed=kind, fix=f"give the directory of a {kind}"
        )
    if verify:
        _verify(path, manifest, raw)
    return Artifact(path=path, manifest=manifest)


def is_current(path: Path | str, *, kind: str, config: Any, parents: Mapping[str, str] | None = None) -> bool:
    """Whether ``path`` already holds a sound artifact made from the same configuration and parents (for resuming)."""
    try:
        manifest = open_artifact(path, kind=kind).manifest
    except ArtifactError:
        return False
    return manifest.config == json.loads(canonical_json(config)) and manifest.parents == dict(parents or {})


def sha256(file: Path) -> str:
    """Hex SHA-256 of one file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _verify(path: Path, manifest: Manifest, raw: Mapping[str, Any]) -> None:
    body = {key: raw[key] for key in ("kind", "schema", "config", "parents", "files")}
    if _digest(body) != manifest.digest or _digest(manifest.facts) != manifest.facts_sha256:
        raise _damaged(path, f"{MANIFEST} does not match its digest")
    # Readers of models take in whatever lies in their directory, so nothing may lie there that was not written.
    found = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() or p.is_symlink()}
    foreign = found - {MANIFEST, *manifest.files}
    if foreign:
        raise _damaged(path, f"files that do not belong to it: {', '.join(sorted(foreign)[:5])}")
    for name, entry in manifest.files.items():
        file = path / name
        if "\0" in name or not file.resolve().is_relative_to(path.resolve()):
            raise _damaged(path, f"{name} points outside the artifact")
        if not file.is_file():
            raise _damaged(path, f"{name} is missing")
        if file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
            raise _damaged(path, f"{name} does not match its checksum")


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged",
        seen=what,
        allowed="files that match the checksums in the manifest",
        fix="copy the artifact again from its source, or run the stage that writes it",
    )


def _swap(new: Path, target: Path) -> None:
    """Put ``new`` at ``target`` in one step; what stood there ends up at ``new`` and is removed by the caller."""
    if not target.exists():
        os.rename(new, target)
        return
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    at_cwd, exchange_flag = -100, 2
    if exchange is not None and exchange(at_cwd, os.fsencode(new), at_cwd, os.fsencode(target), exchange_flag) == 0:
        return
    # No exchange here (other system or file system): two renames; a kill between them is mended by `_recover`.
    old = target.with_name(_OLD + target.name)
    os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old)


def _recover(target: Path) -> None:
    """Undo a replacement that was killed between its two renames."""
    old = target.with_name(_OLD + target.name)
    if not target.exists() and (old / MANIFEST).exists():
        os.rename(old, target)


def _require_place(target: Path) -> None:
    """Make the parent directory; refuse places that hold something else or cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _recover(target)
        foreign = target.exists() and not (target / MANIFEST).exists() and (target.is_file() or any(target.iterdir()))
    except OSError as error:
        raise ArtifactError(
            f"{target} cannot be written",
            seen=f"{error.strerror}: {error.filename}",
            allowed="a directory that can be made here",
            fix="choose another output directory",
        ) from None
    if foreign:
        raise ArtifactError(
            f"{target} exists and is not an artifact",
            seen="a file" if target.is_file() else "a directory with other files",
            allowed="a new path, or an artifact to replace",
            fix="choose another output directory, or empty this one",
        )


def _lock(directory: Path) -> int | None:
    """Hold a directory for as long as this process lives; None where somebody else holds it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(leftover: Path) -> None:
    """Remove what a killed writer left; a living one holds its directory."""
    held = _lock(leftover)
    if held is not None:
        shutil.rmtree(leftover, ignore_errors=True)
        os.close(held)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_is_full(error: Exception, place: Path) -> bool:
    """Some writers (numpy, safetensors) report a full disk without its error number: then the disk itself is asked."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return shutil.disk_usage(place).free < 1 << 20
