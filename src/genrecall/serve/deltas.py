"""Deltas of a ranker's tables, kept in the service's state so that a service which starts again has them."""

from __future__ import annotations

import shutil
from pathlib import Path

from genrecall.artifacts import open_artifact
from genrecall.bundle.contents import RankerFacts
from genrecall.errors import ArtifactError
from genrecall.rank.delta import KIND, read_delta
from genrecall.serve.problems import Problem


class DeltaStore:
    """A directory of deltas.

    Args:
        directory: of the state; deltas of one ranker lie in a folder of its own, numbered.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "ranker-deltas"

    def of(self, ranker: RankerFacts) -> list[str]:
        """Paths of a ranker's deltas, oldest first."""
        folder = self._folder(ranker)
        found: list[str] = []
        while (path := folder / f"{len(found) + 1:06d}").is_dir():
            found.append(str(path))
        return found

    def add(self, ranker: RankerFacts, path: Path) -> list[str]:
        """Check the next delta, keep a copy, and return all; what does not fit is refused and changes nothing.

        Raises:
            ArtifactError: it is damaged, or not the next one.
        """
        known = self.of(ranker)
        read_delta(path, ranker=ranker.digest, version=len(known), shapes=ranker.tables)
        target = self._folder(ranker) / f"{len(known) + 1:06d}"
        writing = target.with_name(f".writing-{target.name}")
        shutil.rmtree(writing, ignore_errors=True)
        shutil.copytree(path, writing)
        open_artifact(writing, kind=KIND)  # the copy, too
        writing.rename(target)
        return [*known, str(target)]

    def _folder(self, ranker: RankerFacts) -> Path:
        return self._directory / ranker.digest.removeprefix("sha256:")[:32]


def added(store: DeltaStore, ranker: RankerFacts | None, path: Path) -> list[str]:
    """``DeltaStore.add`` with refusals as problems."""
    if ranker is None:
        raise Problem("conflict", "the active bundle has no ranker")
    try:
        return store.add(ranker, path)
    except ArtifactError as error:
        raise Problem("conflict", f"the delta cannot be applied: {error.what}", error=error) from error
