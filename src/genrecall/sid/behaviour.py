"""Collaborative vectors from wherever they come: our own factorisation, or any item matrix of another model.

What must hold of all of them: one row an item, in the catalog's order, fitted on *training* events only. The first is
checked against the item count and, where the file names its catalog, against that; the second cannot be seen in a
matrix, so it is recorded: by the digest of the events in the file, or else as the caller's word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from genrecall.catalog.histories import Histories
from genrecall.errors import ArtifactError, ConfigError, DataError
from genrecall.sid.collaborative import CollaborativeConfig, collaborative_vectors

_TENSOR, _HEADER = "vectors", "genrecall"


@dataclass(frozen=True, kw_only=True, eq=False)
class Behaviour:
    """Item vectors that training events gave.

    Attributes:
        matrix: float32 (I, K), in the catalog's order; zeros for an item without events.
        identity: what made them: ``source`` and its settings; part of what SIDs made from them are.
        digest: ``sha256:…`` of the matrix.
        histories: digest of the events they were fitted on; empty where it is not known.
        catalog: digest of the catalog whose order the rows have; empty where it is not known.
    """

    matrix: np.ndarray
    identity: Mapping[str, Any]
    digest: str = ""
    histories: str = ""
    catalog: str = ""
    known: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        assert self.matrix.ndim == 2
        if not np.isfinite(self.matrix).all():
            raise DataError(
                "collaborative vectors hold values that are no numbers",
                seen=f"{int((~np.isfinite(self.matrix)).any(1).sum())} rows with NaN or infinity",
                allowed="finite numbers; zeros for an item without events",
                fix="look at how they were trained",
            )
        matrix = np.ascontiguousarray(self.matrix, np.float32)
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "known", matrix.any(1))
        if not self.digest:
            object.__setattr__(self, "digest", f"sha256:{hashlib.sha256(matrix.tobytes()).hexdigest()}")

    @classmethod
    def factorised(
        cls, histories: Histories, num_items: int, *, config: CollaborativeConfig, seed: int = 0
    ) -> Behaviour:
        """Our own: see ``collaborative``."""
        return cls(
            matrix=collaborative_vectors(histories, num_items, config=config, seed=seed),
            identity={"source": "ppmi", **asdict(config)},
            histories=histories.digest,
        )

    @classmethod
    def load(cls, file: Path | str) -> Behaviour:
        """Read ``write``'s safetensors, any safetensors with a tensor ``vectors``, or a plain ``.npy`` matrix.

        Raises:
            DataError: the file is not such a matrix.
        """
        file = Path(file)
        header: dict[str, Any] = {}
        try:
            if file.suffix == ".npy":
                matrix = np.load(file, allow_pickle=False)
            else:
                with safe_open(file, framework="np") as stored:
                    header = json.loads((stored.metadata() or {}).get(_HEADER, "{}"))
                    matrix = stored.get_tensor(_TENSOR)
        except (SafetensorError, ValueError) as error:
            raise DataError(
                "this file holds no collaborative vectors",
                seen=f"{file}: {error}", allowed=f".npy, or .safetensors with a tensor {_TENSOR}: float (items, width)",
                fix="export the item matrix again",
            ) from error  # fmt: skip
        if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating):
            raise DataError(
                "collaborative vectors are one row of numbers an item",
                seen=f"{file}: {matrix.dtype} {matrix.shape}", allowed="float (items, width)", fix="export it again",
            )  # fmt: skip
        return cls(
            matrix=matrix,
            identity=header.get("identity", {"source": "file"}),
            histories=header.get("histories", ""),
            catalog=header.get("catalog", ""),
        )

    def write(self, file: Path | str) -> None:
        """Store as safetensors, with what they are and were made from."""
        header = {"identity": dict(self.identity), "histories": self.histories, "catalog": self.catalog}
        save_file({_TENSOR: self.matrix}, file, metadata={_HEADER: json.dumps(header, sort_keys=True)})

    def require(self, *, items: int, catalog: str, histories: Histories | None) -> None:
        """Refuse vectors of another catalog or of other events, as far as it can be told."""
        if len(self.matrix) != items or (self.catalog and catalog and self.catalog != catalog):
            raise ArtifactError(
                "the collaborative vectors belong to another catalog",
                seen=f"{len(self.matrix)} rows of the catalog {self.catalog or '(not named)'}",
                allowed=f"{items} rows, in the order of the catalog {catalog or '(not stored)'}",
                fix="export them again for this catalog",
            )
        if self.histories and histories is not None and self.histories != histories.digest:
            raise ConfigError(
                "the collaborative vectors were fitted on other events than these training events",
                seen=f"vectors: {self.histories}; training: {histories.digest}", allowed="one split for both",
                fix="fit them again, or give the split, repeats and tie seed that they were fitted under",
            )  # fmt: skip
