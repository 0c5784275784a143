"""What lies on disk: written while writers are killed and disks fail, damaged, planted, pointing elsewhere."""

from __future__ import annotations

import ast
import errno
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import genrecall
from genrecall.artifacts import MANIFEST, _digest, open_artifact, write_artifact
from genrecall.errors import ArtifactError
from genrecall.serve.chaos.scenario import Setting
from genrecall.serve.chaos.target import Target

_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}
_FORBIDDEN_IMPORTS = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
_FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.save", "yaml.load"}
_FORBIDDEN_WORDS = {"allow_pickle", "trust_remote_code"}


def _write(path: Path, content: str) -> None:
    with write_artifact(path, kind="chaos", config={"content": content}) as writer:
        for name in ("a", "b"):
            (writer.path / name).write_text(content * 200)


def _read(path: Path) -> str:
    artifact = open_artifact(path, kind="chaos")
    return str(artifact.manifest.config["content"])


def _spoil(fault: str, moment: int) -> None:
    """Make this process fail at its so many-th touch of the file system."""
    if fault == "full":  # what a full disk looks like to a writer, without filling one
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (moment * 100, moment * 100))
        return
    left = [moment]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _EVENTS:
            left[0] -= 1
            if left[0] == 0:
                if fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.EIO, "chaos")

    sys.addaudithook(hook)


def written(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Writers killed, disks full and failing at every point; then bits flipped."""
    rounds, rng, path = setting.times(30, 200), random.Random(0), setting.scratch / "artifact"
    _write(path, "0")
    torn, failed = 0, 0
    for fault in ("kill", "error", "full"):
        for number in range(rounds):
            before, new = _read(path), f"{fault} {number}"
            child = os.fork()
            if child == 0:  # nothing but files is touched here
                status = 1
                try:
                    _spoil(fault, 1 + number % 40)
                    _write(path, new)
                    status = 0
                finally:
                    os._exit(status)
            failed += os.waitpid(child, 0)[1] != 0
            try:
                torn += _read(path) not in (before, new)
            except ArtifactError:
                torn += 1
    flips, taken = setting.times(200, 1000), 0
    files = [file for file in path.rglob("*") if file.is_file()]
    for _ in range(flips):
        file = rng.choice(files)
        whole = file.read_bytes()
        bit = rng.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        taken += _opens(path)
        file.write_bytes(whole)
    text = f"{3 * rounds} writers, {failed} of them stopped: {torn} torn; {flips} flipped bits: {taken} not noticed"
    return text, torn == 0 and taken == 0 and failed > 0


def pointing(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """File names and links that lead out of an artifact, and files that nobody wrote."""
    secret = setting.scratch / "secret"
    secret.write_text("secret" * 10)

    def named(name: str) -> Callable[[Path], None]:
        def plant(path: Path) -> None:
            raw = json.loads((path / MANIFEST).read_text())
            raw["files"][name] = raw["files"]["a"]
            body = {key: raw[key] for key in ("kind", "schema", "config", "parents", "files")}
            (path / MANIFEST).write_text(json.dumps({**raw, "digest": _digest(body)}))

        return plant

    def linked(path: Path) -> None:
        (path / "a").unlink()
        (path / "a").symlink_to(secret)

    def added(name: str) -> Callable[[Path], None]:
        def plant(path: Path) -> None:
            (path / name).write_bytes(b"\x80\x04cos\nsystem\n.")

        return plant

    plants = [named(name) for name in ("../secret", str(secret), "a/../../secret", "b\x00", "")]
    plants += [linked, added("pytorch_model.bin"), added("weights.pkl"), added("model.pt")]
    taken = 0
    for number, plant in enumerate(plants):
        path = setting.scratch / f"planted{number}"
        _write(path, "x")
        plant(path)
        taken += _opens(path)
    found = dangerous()
    text = f"{len(plants)} planted: {taken} taken; {len(found)} places that could run what they read {found[:3] or ''}"
    return text, taken == 0 and not found


def _opens(path: Path) -> bool:
    try:
        open_artifact(path, kind="chaos")
    except ArtifactError:
        return False
    return True


def dangerous() -> list[str]:
    """Where this package deserialises what might be code."""
    root, found = Path(genrecall.__file__).parent, []
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name in _FORBIDDEN_IMPORTS]
            elif isinstance(node, ast.ImportFrom) and node.module in _FORBIDDEN_IMPORTS:
                names = [str(node.module)]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                allowed = [word for word in node.keywords if word.arg in _FORBIDDEN_WORDS]
                trusting = any(ast.unparse(word.value) != "False" for word in allowed)
                names = [called] if called in _FORBIDDEN_CALLS or trusting else []
            found += [f"{file.relative_to(root)}:{node.lineno} {name}" for name in names if hasattr(node, "lineno")]
    return found
