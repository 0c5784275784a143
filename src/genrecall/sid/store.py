"""The SID artifact on disk: the table, the codes before collisions were resolved, the fitted quantiser, the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genrecall import artifacts
from genrecall.sid.fusion import Fusion
from genrecall.sid.quantizer import Quantizer
from genrecall.sid.registry import FILE as QUANTIZER
from genrecall.sid.registry import load_quantizer, save_quantizer
from genrecall.sid.space import SidSpace
from genrecall.sid.table import FILE as TABLE
from genrecall.sid.table import SidTable

KIND = "sid"
QUALITY = "quality.json"
CODES = "codes.npy"


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredSids:
    """A SID artifact with all its parts.

    Attributes:
        table: items and SIDs.
        codes: int32 (I, L) before collisions were resolved.
        quantizer: fitted.
        fusion: what joins text and behaviour before it; None for text alone.
        quality: the report made when it was built.
        config: as recorded in the manifest.
        parents: digests of what it was made from.
    """

    table: SidTable
    codes: np.ndarray
    quantizer: Quantizer
    fusion: Fusion | None
    quality: dict[str, Any]
    config: dict[str, Any]
    parents: dict[str, str]

    @classmethod
    def load(cls, path: Path | str) -> StoredSids:
        """Read and verify a ``sid`` artifact."""
        artifact = artifacts.open_artifact(path, kind=KIND)
        space = SidSpace(tuple(artifact.manifest.config["space"]))
        quantizer, fusion = load_quantizer(artifact.file(QUANTIZER))
        return cls(
            table=SidTable.read(artifact.file(TABLE), space, artifact.digest),
            codes=np.load(artifact.file(CODES), allow_pickle=False),
            quantizer=quantizer,
            fusion=fusion,
            quality=json.loads(artifact.file(QUALITY).read_text(encoding="utf-8")),
            config=artifact.manifest.config,
            parents=artifact.manifest.parents,
        )

    def inputs(self, vectors: np.ndarray) -> np.ndarray:
        """What the quantiser is fed for items known by their text vectors (n, D) alone."""
        return vectors if self.fusion is None else self.fusion(vectors)


def write_sids(
    out: Path | str,
    table: SidTable,
    *,
    codes: np.ndarray,
    quantizer: Quantizer,
    fusion: Fusion | None,
    found: Mapping[str, Any],
    config: Mapping[str, Any],
    parents: Mapping[str, str],
) -> SidTable:
    """Write the artifact; returns the table with its digest."""
    with artifacts.write_artifact(out, kind=KIND, config=config, parents=parents) as writer:
        table.write(writer.path / TABLE)
        np.save(writer.path / CODES, codes)
        save_quantizer(writer.path / QUANTIZER, quantizer, fusion)
        text = json.dumps(found, indent=1, ensure_ascii=False)
        (writer.path / QUALITY).write_text(text + "\n", encoding="utf-8")
        writer.facts["items"] = len(table.item_ids)
    return replace(table, digest=artifacts.open_artifact(out, kind=KIND, verify=False).digest)
