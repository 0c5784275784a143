"""Rows of tables that were learnt again, applied to a ranker that answers: as a whole, in order, or not at all.

    T_n = T_{n−1} with T_n[r] = v for (r, v) in delta n;   delta n fits version n − 1 of one ranker

Read and checked without torch, so that a gateway refuses what does not fit before any worker is told of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from genrecall.artifacts import Artifact, open_artifact, write_artifact
from genrecall.errors import ArtifactError

KIND, FORMAT = "ranker-delta", 1
_FILE = "delta.safetensors"
Changes = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Delta:
    """Changes of tables: by name int64 (n,) rows, ascending, and float32 (n, width) values.

    Attributes:
        ranker: digest of the ranker.
        version: n: it makes n of n − 1.
        changes: by table.
    """

    ranker: str
    version: int
    changes: Changes

    @property
    def rows(self) -> int:
        """How many."""
        return sum(len(rows) for rows, _ in self.changes.values())


def write_delta(delta: Delta, out: Path) -> Artifact:
    """Store a delta."""
    config = {"format": FORMAT, "ranker": delta.ranker, "version": delta.version}
    with write_artifact(out, kind=KIND, config=config) as writer:
        arrays: dict[str, np.ndarray] = {}
        for name, (rows, values) in delta.changes.items():
            arrays[f"{name}.rows"] = np.ascontiguousarray(rows, np.int64)
            arrays[f"{name}.values"] = np.ascontiguousarray(values, np.float32)
        save_file(arrays, writer.path / _FILE)
        writer.facts |= {"rows": delta.rows}
    return open_artifact(out, kind=KIND)


def read_delta(path: Path, *, ranker: str, version: int, shapes: Mapping[str, tuple[int, int]]) -> Delta:
    """Read a delta for a ranker whose tables have these shapes and stand at ``version``.

    Raises:
        ArtifactError: it is damaged, or is not the next one of this ranker.
    """
    artifact = open_artifact(path, kind=KIND)
    config = artifact.manifest.config
    if config.get("format") != FORMAT or config.get("ranker") != ranker or config.get("version") != version + 1:
        raise ArtifactError(
            "this delta is not the ranker's next one",
            seen=f"format {config.get('format')}, version {config.get('version')} of {config.get('ranker')}",
            allowed=f"format {FORMAT}, version {version + 1} of {ranker}",
            fix="apply the deltas of one ranker in their order",
        )
    arrays = load_file(artifact.file(_FILE))
    names = {name.rpartition(".")[0] for name in arrays}
    changes = {name: _changes(arrays, name, shapes) for name in sorted(names)}
    return Delta(ranker=ranker, version=version + 1, changes=changes)


def table_shapes(file: Path) -> dict[str, tuple[int, int]]:
    """Rows and width by table of ``tables.safetensors``; no table is read."""
    with safe_open(file, framework="numpy") as tables:
        shapes = {name: tables.get_slice(name).get_shape() for name in tables.keys()}  # noqa: SIM118
    return {name: (int(rows), int(width)) for name, (rows, width) in shapes.items()}


def _changes(
    arrays: Mapping[str, np.ndarray], name: str, shapes: Mapping[str, tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    rows, values = arrays.get(f"{name}.rows"), arrays.get(f"{name}.values")
    size, width = shapes.get(name, (0, 0))
    fits = (
        rows is not None
        and values is not None
        and rows.dtype == np.int64
        and values.dtype == np.float32
        and values.shape == (len(rows), width)
        and bool((np.diff(rows) > 0).all())
        and (len(rows) == 0 or (rows[0] >= 0 and rows[-1] < size))
        and bool(np.isfinite(values).all())
    )
    if not fits or rows is None or values is None:
        raise ArtifactError(
            "a delta's rows do not fit the ranker's table",
            seen=f"table {name}: rows {None if rows is None else rows.shape}, values "
            f"{None if values is None else values.shape}",
            allowed=f"ascending rows below {size}, finite float32 values of width {width}",
            fix="make the delta from the ranker that is in service",
        )
    return rows, values
