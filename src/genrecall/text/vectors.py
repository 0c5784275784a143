"""Item vectors as an artifact: one row an item, in the catalog's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrecall.artifacts import Writer, open_artifact, write_artifact
from genrecall.errors import ArtifactError

KIND = "vectors"
MATRIX = "vectors.npy"
ITEM_IDS = "item_ids.parquet"
# float16 reaches 65,504 and loses relative precision below 6e-5.
_HALF_LARGEST, _HALF_SMALLEST = 6e4, 1e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Vectors of a catalog's items.

    Attributes:
        item_ids: I item ids, in the catalog's order.
        matrix: float32 (I, D).
        identity: of the encoder that made them (``name``, ``version``, ``dim``, ``pooling``, ``digest``).
        digest: of the artifact; empty while it has not been stored.
    """

    item_ids: list[str]
    matrix: np.ndarray
    identity: dict[str, Any]
    digest: str = ""

    def __post_init__(self) -> None:
        assert self.matrix.ndim == 2
        assert len(self.matrix) == len(self.item_ids)
        assert self.matrix.dtype == np.float32

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.matrix.shape[1])

    @classmethod
    def load(cls, path: Path | str) -> Vectors:
        """Read a ``vectors`` artifact."""
        artifact = open_artifact(path, kind=KIND)
        return cls(
            item_ids=pq.read_table(artifact.file(ITEM_IDS))["item_id"].to_pylist(),
            matrix=np.load(artifact.file(MATRIX), allow_pickle=False).astype(np.float32),
            identity=artifact.manifest.config["encoder"],
            digest=artifact.digest,
        )

    def require_items(self, item_ids: Sequence[str]) -> None:
        """Refuse vectors that were made for another catalog."""
        if list(item_ids) != self.item_ids:
            missing = set(item_ids) - set(self.item_ids)
            raise ArtifactError(
                "the vectors belong to another catalog",
                seen=f"{len(self)} items with vectors, {len(item_ids)} in the catalog, {len(missing)} without vector",
                allowed="the same items in the same order",
                fix="run `genrecall embed` on this catalog",
            )


def write_vectors(
    path: Path | str,
    item_ids: list[str],
    matrix: np.ndarray,
    *,
    config: dict[str, Any],
    parents: dict[str, str],
    facts: dict[str, Any],
) -> Vectors:
    """Store float32 (I, D) vectors, and return them as they will be read.

    ``config["encoder"]`` is the identity. Stored as float16, which costs less than 1e-6 of cosine; as float32 where the
    values do not fit float16's range.
    """
    with write_artifact(path, kind=KIND, config=config, parents=parents) as writer:
        _fill(writer, item_ids, matrix)
        writer.facts.update(facts)
    return Vectors.load(path)


def _fill(writer: Writer, item_ids: list[str], matrix: np.ndarray) -> None:
    largest = np.abs(matrix).max(axis=1, initial=0.0)
    fits = not np.any((largest > _HALF_LARGEST) | ((largest < _HALF_SMALLEST) & (largest > 0)))
    np.save(writer.path / MATRIX, matrix.astype(np.float16) if fits else matrix, allow_pickle=False)
    pq.write_table(pa.table({"item_id": pa.array(item_ids, pa.string())}), writer.path / ITEM_IDS)
