"""Compiled kernels kept on disk, each with its checksum: a file that is not what was sealed is compiled again.

    folder = cache / digest(versions of torch and Triton · GPU · source of every kernel)

Triton keeps what it compiles by a key of its own (source, options, target) and trusts what it finds there. We add what
it lacks: nothing is read back that a manifest does not vouch for, and another version or GPU never looks into the same
folder. Graphs are not kept: they hold addresses.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from genrecall import kernels
from genrecall.hardware import version_of
from genrecall.telemetry import log

if TYPE_CHECKING:
    import torch

_MANIFEST, _LOCK = "sealed.json", "lock"
_open: dict[Path, Compiled] = {}


class Compiled:
    """One folder, verified when it is opened and locked against removal while this process lives.

    Args:
        folder: made where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process has verified it and may be writing
            self.removed = 0
        else:
            self.removed = self._verify()
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def seal(self) -> int:
        """Vouch for all that is there now; returns how many files that is."""
        listed = {}
        for name, file in self._files().items():
            with contextlib.suppress(FileNotFoundError):  # others compile, too: Triton writes beside and renames
                listed[name] = _sha256(file)
        temporary = self.folder / f".{_MANIFEST}.{os.getpid()}"
        temporary.write_text(json.dumps(listed, indent=0, sort_keys=True), encoding="utf-8")
        temporary.replace(self.folder / _MANIFEST)
        return len(listed)

    def _files(self) -> dict[str, Path]:
        files = (Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names)
        kept = (file for file in files if file.name != _LOCK and not file.name.startswith((_MANIFEST, f".{_MANIFEST}")))
        return {file.relative_to(self.folder).as_posix(): file for file in kept}

    def _verify(self) -> int:
        """Remove what no manifest vouches for; returns how many files that was."""
        manifest = self.folder / _MANIFEST
        try:
            listed = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
        except ValueError:
            listed = {}
        # A kernel's files stand in a folder of their own and are only good together.
        wrong = {file.parent for name, file in self._files().items() if listed.get(name) != _sha256(file)}
        wrong |= {(self.folder / name).parent for name in listed if not (self.folder / name).exists()}
        removed = 0
        for file in self._files().values():
            if file.parent in wrong:
                file.unlink()
                removed += 1
        if removed:
            log(f"{removed} compiled kernels were not sealed, or are not what was sealed, and are compiled again")
        return removed


def use_cache(device: torch.device, root: Path | None = None) -> Compiled | None:
    """Let Triton keep its kernels in a verified folder from now on; None where nothing is compiled (CPU).

    Args:
        device: what is compiled for.
        root: of all folders; by default GENRECALL_CACHE, or ``~/.cache/genrecall``.
    """
    if device.type != "cuda":
        return None
    folder = (root or _root()) / "kernels" / _digest(device)
    if folder not in _open:
        _open[folder] = Compiled(folder)
        os.environ["TRITON_CACHE_DIR"] = str(folder)
    return _open[folder]


def seal_all() -> None:
    """Vouch for whatever this process has compiled since an engine was warm: a ranker's kernels come after it."""
    for compiled in _open.values():
        compiled.seal()


def _root() -> Path:
    told = os.environ.get("GENRECALL_CACHE")
    return Path(told) if told else Path.home() / ".cache" / "genrecall"


def _digest(device: torch.device) -> str:
    import torch

    found = hashlib.sha256()
    for part in (version_of("torch"), version_of("triton"), torch.version.cuda, torch.cuda.get_device_name(device)):
        found.update(f"{part}\n".encode())
    for file in sorted(Path(kernels.__path__[0]).rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()[:24]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
