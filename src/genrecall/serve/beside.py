"""Artifacts that a bundle was made from, where they still lie beside it: the console reads them, answering does not."""

from __future__ import annotations

from pathlib import Path

from genrecall.artifacts import Artifact, open_artifact
from genrecall.errors import ArtifactError

_MOST = 200


def beside(bundle: Path, digest: str | None, kind: str) -> Artifact | None:
    """The artifact with this digest among the bundle's siblings; its files are not verified yet.

    None where there is none: a bundle that was copied to another machine comes alone.
    """
    if digest is None:
        return None
    folders = sorted(folder for folder in bundle.resolve().parent.iterdir() if folder.is_dir())
    for folder in folders[:_MOST]:
        try:
            found = open_artifact(folder, kind=kind, verify=False)
        except ArtifactError:
            continue
        if found.digest == digest:
            return found
    return None
