"""Neighbours of an item by SID and by vector, side by side: do the codes keep together what belongs together?

by SID: longest common prefix, ties in the catalog's order        by vector: largest cosine of what was quantised
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from genrecall.artifacts import open_artifact
from genrecall.bundle.contents import Contents
from genrecall.serve.beside import beside

_CHUNK = 1 << 16
_MATRIX, _IDS = "vectors.npy", "item_ids.parquet"


class Neighbours:
    """Looks them up in one bundle; vectors stay on disk.

    Args:
        contents: of the bundle. Its vectors are read where their artifact still lies beside it.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._matrix = _vectors(contents)

    def of(self, item: int, count: int) -> dict[str, Any]:
        """The ``count`` nearest by each; ``by_vector`` is None where the vectors are not at hand. O(I · D)."""
        sids = self._contents.table.sids
        shared = np.cumprod(sids == sids[item], axis=1).sum(axis=1)
        shared[item] = -1
        by_sid = [i for i in np.argsort(-shared, kind="stable")[:count].tolist() if shared[i] > 0]
        found: dict[str, Any] = {
            "item": self._entry(item),
            "by_sid": [self._entry(i) | {"shared": int(shared[i])} for i in by_sid],
            "by_vector": None,
            "both": None,
        }
        if self._matrix is not None:
            cosines = self._cosines(self._matrix, item)
            near = np.argsort(-cosines, kind="stable")[:count].tolist()
            found["by_vector"] = [
                self._entry(i) | {"shared": int(shared[i]), "cosine": round(float(cosines[i]), 4)} for i in near
            ]
            found["both"] = len(set(by_sid) & set(near))
        return found

    def _entry(self, item: int) -> dict[str, Any]:
        items = self._contents.items
        return {"item_id": items.ids[item], "title": items.titles[item], "sid": self._contents.table.written(item)}

    def _cosines(self, matrix: np.ndarray, item: int) -> np.ndarray:
        """float32 (I,); −2 for the item with itself."""
        asked = matrix[item].astype(np.float32)
        found, norms = np.empty(len(matrix), np.float32), np.empty(len(matrix), np.float32)
        for low in range(0, len(matrix), _CHUNK):
            rows = matrix[low : low + _CHUNK].astype(np.float32)
            found[low : low + _CHUNK] = rows @ asked
            norms[low : low + _CHUNK] = np.sqrt((rows * rows).sum(axis=1))
        found /= np.maximum(norms * norms[item], 1e-12)
        found[item] = -2
        return found


def _vectors(contents: Contents) -> np.ndarray | None:
    sids = beside(contents.path, contents.table.digest, "sid")
    found = None if sids is None else beside(contents.path, sids.manifest.parents.get("vectors"), "vectors")
    if found is None:
        return None
    artifact = open_artifact(found.path, kind="vectors")
    if pq.read_table(artifact.file(_IDS))["item_id"].to_pylist() != contents.items.ids:
        return None  # items were appended since: another artifact holds theirs
    return np.asarray(np.load(artifact.file(_MATRIX), mmap_mode="r", allow_pickle=False))
