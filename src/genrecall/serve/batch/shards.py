"""Who works on what: a plan that cannot change, a lease a shard, and output that is there whole or not at all.

    plan.json            written once; another plan in the same directory is refused
    leases/00003         locked by the process that works on the shard; its death unlocks it
    00003.parquet        renamed into place after a flush
    manifest.json        written when all shards are there: their checksums

A lock is the kernel's (flock), so that a lease needs no clock and no time-out: exactly the living hold leases.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrecall.artifacts import canonical_json, sha256
from genrecall.errors import ArtifactError

PLAN, MANIFEST, _LEASES = "plan.json", "manifest.json", "leases"


class Shards:
    """The output directory of one batch.

    Args:
        directory: is made where it is missing.
        plan: all that decides the output; ``shards`` is how many there are.

    Raises:
        ArtifactError: the directory holds another plan, or anything else.
    """

    def __init__(self, directory: Path, plan: dict[str, Any]) -> None:
        self.directory, self.count = directory, int(plan["shards"])
        _require_place(directory)
        (directory / _LEASES).mkdir(parents=True, exist_ok=True)
        wanted = canonical_json(plan)
        temporary = directory / f".{PLAN}-{os.getpid()}"
        try:
            # Linked, not renamed: of several processes that begin at once, the first one's plan stays.
            os.link(_written(temporary, wanted.encode()), directory / PLAN)
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
        found = (directory / PLAN).read_text(encoding="utf-8")
        if found != wanted:
            raise ArtifactError(
                "this directory holds another batch",
                seen=found[:300],
                allowed=wanted[:300],
                fix="give another --out, or remove the directory to begin again",
            )

    def path(self, shard: int) -> Path:
        """Where a shard's output is, or will be."""
        return self.directory / f"{shard:05d}.parquet"

    @property
    def missing(self) -> list[int]:
        """Shards that are not done."""
        return [shard for shard in range(self.count) if not self.path(shard).exists()]

    def todo(self, among: Sequence[int] | None = None) -> Iterator[int]:
        """Shards to do now (of these), each leased to this process while the loop works on it."""
        for shard in self.missing if among is None else among:
            with self._lease(shard) as held:
                if held and not self.path(shard).exists():
                    yield shard

    def write(self, shard: int, table: pa.Table) -> None:
        """Put a shard's output in place."""
        temporary = self.directory / f".{shard:05d}-{os.getpid()}"
        pq.write_table(table, temporary, compression="zstd")
        _flush(temporary)
        os.replace(temporary, self.path(shard))
        _flush(self.directory)

    def finish(self) -> bool:
        """Write the manifest if all shards are done; whether they are."""
        if self.missing:
            return False
        files = {self.path(shard).name: sha256(self.path(shard)) for shard in range(self.count)}
        plan = json.loads((self.directory / PLAN).read_text(encoding="utf-8"))
        body = json.dumps({"plan": plan, "files": files}, indent=2) + "\n"
        os.replace(_written(self.directory / f".{MANIFEST}-{os.getpid()}", body.encode()), self.directory / MANIFEST)
        for leftover in self.directory.glob(".[0-9]*-*"):
            leftover.unlink(missing_ok=True)  # of processes that were killed while they wrote
        return True

    @contextlib.contextmanager
    def _lease(self, shard: int) -> Iterator[bool]:
        with (self.directory / _LEASES / f"{shard:05d}").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def _require_place(directory: Path) -> None:
    """Refuse a directory of others: the manifest of an artifact would be replaced, and lists lie among its files."""
    if (directory / PLAN).exists() or not directory.exists():
        return
    # Of processes that begin at once, one may be about to write the plan.
    foreign = [
        path.name
        for path in ([directory] if directory.is_file() else sorted(directory.iterdir()))
        if path.name != _LEASES and not path.name.startswith(f".{PLAN}-")
    ]
    if foreign and not (directory / PLAN).exists():
        raise ArtifactError(
            f"{directory} is not a batch's",
            seen=", ".join(foreign[:5]),
            allowed="a new or an empty directory, or one of the same batch",
            fix="give another --out",
        )


def _written(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    _flush(path)
    return path


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
