"""The operators as a shared library: compiled once for this TensorFlow and this compiler, kept, checked, loaded.

TensorFlow promises no C++ ABI between versions, so that a library belongs to the wheel whose headers it was compiled
with. It is kept in this user's cache under a key of TensorFlow's version and flags, the compiler and the sources; what
the directory holds is checked against its manifest before it is loaded, and only this user may write there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from genrecall.artifacts import Artifact, open_artifact, write_artifact
from genrecall.errors import ArtifactError, ConfigError, GenrecallError
from genrecall.graph.runtime import tensorflow
from genrecall.telemetry import log

KIND = "tensorflow-ops"
NAME = "genrecall_ops.so"
_UNIT = "library.cc"
_FLAGS = ("-O2", "-DNDEBUG", "-shared", "-fPIC", "-fvisibility=hidden", "-w")
_LOADED: dict[str, Any] = {}
_LOADING = threading.Lock()


class CompilerError(GenrecallError):
    """There is no compiler that can build the operators here."""


def load() -> Any:
    """The operators' module; the library is compiled where this user's cache does not hold it (about 15 s).

    Raises:
        DependencyError: TensorFlow is not installed.
        CompilerError: there is no compiler, or it fails.
        ArtifactError, ConfigError: the cache holds another library than its manifest says, or others may write there.
    """
    with _LOADING:
        if "ops" not in _LOADED:
            _LOADED["ops"] = tensorflow().load_op_library(str(library_path()))
        return _LOADED["ops"]


def library_path() -> Path:
    """The compiled library, checked.

    Raises:
        As ``load``.
    """
    return _checked(build())


def build(cache: Path | None = None) -> Path:
    """The directory of the library that fits this process; compiles it if need be.

    Args:
        cache: where libraries are kept; None is this user's cache.

    Raises:
        As ``load``.
    """
    tf = tensorflow()
    compiler = _compiler()
    config = {
        "tensorflow": tf.version.VERSION,
        "tensorflow_build": tf.version.GIT_VERSION,
        "flags": [*_FLAGS, *_portable(tf.sysconfig.get_compile_flags()), *tf.sysconfig.get_link_flags()[1:]],
        "compiler": _says(compiler, "--version").splitlines()[0],
        "sources": digest_of_sources(),
    }
    key = hashlib.sha256(repr(sorted(config.items())).encode()).hexdigest()[:24]
    directory = (cache or _cache()) / f"tensorflow-{tf.version.VERSION}-{key}"
    if not (directory / NAME).is_file():
        log(f"compiling the operators for TensorFlow {tf.version.VERSION} (once; about 15 s)")
        with write_artifact(directory, kind=KIND, config=config) as writer, resources.as_file(_sources()) as folder:
            _compile(compiler, folder / _UNIT, writer.path / NAME, tf)
    return directory


def open_library(directory: Path) -> Artifact:
    """A library's directory, checked: its bytes, and that it was compiled for the TensorFlow of this process.

    Raises:
        ArtifactError: it was not.
    """
    tf, library = tensorflow(), open_artifact(directory, kind=KIND)
    if library.manifest.config["tensorflow"] != tf.version.VERSION:
        raise ArtifactError(
            "the operators were compiled for another TensorFlow",
            seen=f"a library for {library.manifest.config['tensorflow']}, and TensorFlow {tf.version.VERSION}",
            allowed="a library for the TensorFlow that loads it: its C++ interface changes between versions",
            fix="run `genrecall graph ops` with the TensorFlow that is to load them",
        )
    return library


def _checked(directory: Path) -> Path:
    _require_private(directory)
    return open_library(directory).file(NAME)


def _cache() -> Path:
    base = os.environ.get("GENRECALL_CACHE")
    home = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genrecall"
    path = home / "tensorflow-ops"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _require_private(directory: Path) -> None:
    """What is loaded runs as this user: nobody else may be able to put it there."""
    for path in (directory.parent, directory, directory / NAME):
        facts = path.stat()
        if facts.st_uid not in (os.geteuid(), 0) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                "others may write to the cache of compiled operators",
                seen=f"{path}: owner {facts.st_uid}, mode {stat.filemode(facts.st_mode)}",
                allowed="a directory of this user (or root) that nobody else may write to",
                fix=f"remove {directory.parent} and try again, or set GENRECALL_CACHE to a private directory",
            )


def _sources() -> Any:
    return resources.files("genrecall.graph") / "ops"


def digest_of_sources() -> str:
    """Of what the operators are compiled from."""
    files = sorted(
        (entry for entry in _sources().iterdir() if entry.name.endswith((".cc", ".h"))), key=lambda e: e.name
    )
    digest = hashlib.sha256()
    for entry in files:
        digest.update(entry.name.encode() + b"\0" + entry.read_bytes() + b"\0")
    return digest.hexdigest()


def _compiler() -> str:
    wanted = os.environ.get("CXX") or "g++"
    found = shutil.which(wanted)
    if found is None:
        raise CompilerError(
            "the TensorFlow operators cannot be compiled here",
            seen=f"no compiler {wanted}",
            allowed="g++ 9 or newer, or another C++17 compiler named by CXX",
            fix="install one (Debian, Ubuntu: apt install g++)",
        )
    return found


def _compile(compiler: str, source: Path, out: Path, tf: Any) -> None:
    flags, link = tf.sysconfig.get_compile_flags(), tf.sysconfig.get_link_flags()
    command = [compiler, *_FLAGS, str(source), "-o", str(out), *flags, *link, "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        wrong = (
            [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["nothing"]
        )
        raise CompilerError(
            "the compiler could not build the TensorFlow operators",
            seen=f"{_says(compiler, '--version').splitlines()[0]}: {wrong[0]}",
            allowed="g++ 9 or newer with the headers of the installed TensorFlow wheel",
            fix="install a newer g++ (or name one by CXX), or TensorFlow 2.20 or newer",
        )
    out.chmod(0o700)


def _says(compiler: str, argument: str) -> str:
    return subprocess.run([compiler, argument], capture_output=True, text=True, check=True).stdout


def _portable(flags: Sequence[str]) -> list[str]:
    """Without the place where the wheel happens to be installed."""
    return [flag for flag in flags if not flag.startswith("-I")]
