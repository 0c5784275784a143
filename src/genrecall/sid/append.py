"""SIDs for new items from the stored quantiser: nothing is retrained, and no SID that exists changes.

A new item is encoded as the old ones were (same normalisation; behaviour it has none of is estimated from its text, see
``fusion``). Where its SID is taken, the new item moves, by the rule the table was built with; Sinkhorn tables reassign.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.artifacts import copy_artifact
from genrecall.errors import ArtifactError, DataError
from genrecall.sid.collisions import resolve_new
from genrecall.sid.reconstruction import reconstruction_error
from genrecall.sid.store import StoredSids, write_sids
from genrecall.sid.table import SidTable
from genrecall.telemetry import log, progress


def append_sids(
    sid_dir: Path | str,
    item_ids: Sequence[str],
    vectors: np.ndarray,
    *,
    out: Path | str,
    identity: dict[str, Any] | None = None,
    vectors_digest: str = "",
) -> SidTable:
    """Give the items that the table lacks a SID and write the larger artifact.

    Args:
        sid_dir: the artifact in use.
        item_ids: n ids; those the table has already are left alone.
        vectors: float (n, D) text vectors, from the same encoder.
        out: the new artifact (may be ``sid_dir``, which is then replaced in one step).
        identity: of the encoder; refused when the table was built with another.
        vectors_digest: of the vectors' artifact, recorded as a parent.

    Returns:
        The table in the order of ``item_ids`` when that holds every old item (a whole new catalog), else the old rows
        followed by the new ones; the old table itself, under its digest, where no item is new.

    Raises:
        CapacityError: the space is full.
    """
    stored = StoredSids.load(sid_dir)
    _require_encoder(stored, vectors, identity)
    item_ids = list(item_ids)
    if len(set(item_ids)) != len(item_ids):
        raise DataError(
            "some items come twice",
            seen=f"{len(item_ids) - len(set(item_ids))} repeated ids",
            allowed="distinct item ids",
            fix="remove the repeated rows",
        )
    old = stored.table
    have = set(old.item_ids)
    fresh = [row for row, item in enumerate(item_ids) if item not in have]
    if not fresh and (not have <= set(item_ids) or item_ids == list(old.item_ids)):
        log(f"all {len(item_ids)} items have SIDs: nothing to do")
        copy_artifact(sid_dir, out)
        return old
    inputs = stored.inputs(vectors[fresh])
    codes = stored.quantizer.encode(inputs)
    rule = stored.config["collisions"]
    with progress("resolving collisions") as bar:
        sids = resolve_new(codes, stored.quantizer, inputs, rule, space=old.space, taken=old.sids, bar=bar)

    ids = [*old.item_ids, *(item_ids[row] for row in fresh)]
    order = np.arange(len(ids))
    if have <= set(item_ids):
        place_of = {item: place for place, item in enumerate(ids)}
        order = np.array([place_of[item] for item in item_ids], np.int64)
    table = SidTable(space=old.space, item_ids=[ids[i] for i in order], sids=np.concatenate([old.sids, sids])[order])
    moved = int((codes != sids[:, : codes.shape[1]]).any(1).sum())
    log(f"{len(fresh)} items appended to {len(have)}; {moved} of them took another SID than their nearest")
    error = reconstruction_error(stored.quantizer, inputs, codes) if fresh else 0.0
    note = {"items": len(fresh), "moved": moved, "reconstruction_error": error}
    parents = {"sid": old.digest} | ({"vectors": vectors_digest} if vectors_digest else {})
    if "histories" in stored.parents:  # the SIDs still know these events, and training must ask which
        parents["histories"] = stored.parents["histories"]
    return write_sids(
        out, table, codes=np.concatenate([stored.codes, codes])[order], quantizer=stored.quantizer,
        fusion=stored.fusion, found={**stored.quality, "appended": [*stored.quality.get("appended", []), note]},
        config={**stored.config, "descends_from": [*stored.config.get("descends_from", []), old.digest]},
        parents=parents,
    )  # fmt: skip


def _require_encoder(stored: StoredSids, vectors: np.ndarray, identity: dict[str, Any] | None) -> None:
    built_with = stored.config["encoder"]
    if identity is not None and identity != built_with:
        raise ArtifactError(
            "these vectors come from another encoder than the SIDs",
            seen=identity, allowed=str(built_with), fix="embed the new items with the encoder the SIDs were built with",
        )  # fmt: skip
    mean = stored.fusion.text.mean if stored.fusion is not None else stored.quantizer.normaliser.mean
    if vectors.ndim != 2 or vectors.shape[1] != len(mean):
        raise ArtifactError(
            "these vectors have another width than those of the SIDs",
            seen=vectors.shape, allowed=f"(items, {len(mean)})", fix="embed the new items with the same encoder",
        )  # fmt: skip
