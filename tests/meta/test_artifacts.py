"""Artifacts: the old one or the new one, never a broken one."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genrecall import artifacts
from genrecall.artifacts import is_current, open_artifact, write_artifact
from genrecall.errors import ArtifactError


def _write(path: Path, text: str) -> str:
    with write_artifact(path, kind="note", config={"text": text}, parents={"a": "sha256:0"}) as writer:
        (writer.path / "sub").mkdir()
        (writer.path / "sub" / "text").write_text(text)
        (writer.path / "more").write_bytes(text.encode() * 1000)
        writer.facts["seconds"] = 1.5
    return open_artifact(path).digest


def test_round_trip_and_determinism(tmp_path: Path) -> None:
    one, two = _write(tmp_path / "one", "hello"), _write(tmp_path / "two", "hello")
    assert one == two != _write(tmp_path / "three", "other")
    assert open_artifact(tmp_path / "one", kind="note").file("sub/text").read_text() == "hello"
    assert is_current(tmp_path / "one", kind="note", config={"text": "hello"}, parents={"a": "sha256:0"})
    assert not is_current(tmp_path / "one", kind="note", config={"text": "x"}, parents={"a": "sha256:0"})
    assert not is_current(tmp_path / "none", kind="note", config={})


def test_replacing_leaves_only_the_new(tmp_path: Path) -> None:
    _write(tmp_path / "a", "old")
    _write(tmp_path / "a", "new")
    assert open_artifact(tmp_path / "a").file("sub/text").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_failure_in_the_block_leaves_the_old(tmp_path: Path) -> None:
    _write(tmp_path / "a", "old")

    def fail_half_way() -> None:
        with write_artifact(tmp_path / "a", kind="note", config={}) as writer:
            (writer.path / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert open_artifact(tmp_path / "a").file("sub/text").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["sub/text", "more", "manifest.json"])
def test_a_flipped_bit_is_refused(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "a", "hello")
    file = tmp_path / "a" / name
    body = bytearray(file.read_bytes())
    chance = random.Random(0)
    for _ in range(40):
        position = chance.randrange(len(body))
        body[position] ^= 1
        file.write_bytes(body)
        with pytest.raises(ArtifactError):
            open_artifact(tmp_path / "a")
        body[position] ^= 1


def test_errors_have_four_parts(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        open_artifact(tmp_path / "none", kind="model")
    for part in ("there is no artifact", "seen:", "allowed:", "do:"):
        assert part in str(caught.value)
    _write(tmp_path / "a", "x")
    with pytest.raises(ArtifactError, match="another kind"):
        open_artifact(tmp_path / "a", kind="model")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="not an artifact"):
        _write(tmp_path / "other", "x")
    assert (tmp_path / "other" / "mine.txt").read_text() == "precious"


def test_a_file_outside_the_artifact_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a", "hello")
    (tmp_path / "a" / "more").unlink()
    (tmp_path / "elsewhere").write_bytes(b"hello" * 1000)
    (tmp_path / "a" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="damaged"):
        open_artifact(tmp_path / "a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_disk_full_while_filling(tmp_path: Path) -> None:
    _write(tmp_path / "a", "old")

    def fill() -> None:
        with write_artifact(tmp_path / "a", kind="note", config={}) as writer:
            (writer.path / "file").symlink_to("/dev/full")
            (writer.path / "file").write_bytes(b"x" * 100_000)

    with pytest.raises(ArtifactError, match="disk is full"):
        fill()
    assert open_artifact(tmp_path / "a").file("sub/text").read_text() == "old"


def test_disk_full_at_every_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "a", "old")
    real, calls = os.fsync, 0

    def count(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        real(descriptor)

    monkeypatch.setattr(artifacts.os, "fsync", count)
    _write(tmp_path / "b", "count")
    for point in range(calls - 1):  # the last sync follows the swap: by then the new artifact stands
        left = point

        def fail(descriptor: int) -> None:
            nonlocal left
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            left -= 1
            real(descriptor)

        monkeypatch.setattr(artifacts.os, "fsync", fail)
        with pytest.raises(ArtifactError, match="disk is full"):
            _write(tmp_path / "a", "new")
        assert open_artifact(tmp_path / "a").file("sub/text").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_file_that_was_not_written_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a", "hello")
    (tmp_path / "a" / "sub" / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        open_artifact(tmp_path / "a")


def test_leftovers_of_the_dead_are_swept_and_the_living_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".writing-a-123").mkdir()
    (tmp_path / ".writing-a-123" / "half").write_text("half")
    with write_artifact(tmp_path / "a", kind="note", config={"n": 1}):
        alive = [p.name for p in tmp_path.iterdir()]
        assert len(alive) == 1
        assert alive[0] != ".writing-a-123"
        with write_artifact(tmp_path / "a", kind="note", config={"n": 2}):
            pass
        assert (tmp_path / alive[0]).exists()
    assert open_artifact(tmp_path / "a").manifest.config == {"n": 1}


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path: Path) -> None:
    _write(tmp_path / "a", "old")
    (tmp_path / "a").rename(tmp_path / ".old-a")
    assert open_artifact(tmp_path / "a").file("sub/text").read_text() == "old"


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArtifactError):
            _write(place, "x")
        with pytest.raises(ArtifactError, match="no artifact"):
            open_artifact(place)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.slow
def test_kill_at_any_moment_leaves_old_or_new(tmp_path: Path) -> None:
    code = """
import sys
from genrecall.artifacts import write_artifact
n = 0
while True:
    n += 1
    with write_artifact(sys.argv[1], kind="note", config={"n": n}) as writer:
        for part in range(5):
            (writer.path / f"part{part}").write_bytes(str(n).encode() * 50_000)
    print(n, flush=True)
"""
    chance = random.Random(0)
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        artifact = open_artifact(tmp_path / "a")
        parts = {artifact.file(f"part{part}").read_bytes() for part in range(5)}
        assert parts == {str(artifact.manifest.config["n"]).encode() * 50_000}
    _write(tmp_path / "b", "x")
    with write_artifact(tmp_path / "a", kind="note", config={}):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]  # leftovers of the dead are swept
