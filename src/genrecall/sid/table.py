"""Which item has which SID: the artifact that training, the trie and the engine agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrecall.artifacts import open_artifact
from genrecall.errors import ArtifactError
from genrecall.sid.space import SidSpace

FILE = "table.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class SidTable:
    """SIDs of a catalog's items, in the catalog's item order.

    Attributes:
        space: the layout.
        item_ids: I item ids.
        sids: int32 (I, L) codes.
        digest: of the artifact this was read from; empty while it has not been stored.
    """

    space: SidSpace
    item_ids: list[str]
    sids: np.ndarray
    digest: str = ""

    def __post_init__(self) -> None:
        assert self.sids.shape == (len(self.item_ids), self.space.levels)

    @classmethod
    def load(cls, path: Path | str) -> SidTable:
        """Read the table out of a ``sid`` artifact."""
        artifact = open_artifact(path, kind="sid")
        return cls.read(artifact.file(FILE), SidSpace(tuple(artifact.manifest.config["space"])), artifact.digest)

    @classmethod
    def read(cls, file: Path, space: SidSpace, digest: str = "") -> SidTable:
        """Read one table file."""
        table = pq.read_table(file)
        flat = table["sid"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        sids = flat.astype(np.int32).reshape(table.num_rows, space.levels)
        return cls(space=space, item_ids=table["item_id"].to_pylist(), sids=sids, digest=digest)

    def write(self, file: Path) -> None:
        """Write the table file (``item_id``, ``sid`` as a list of codes)."""
        codes = pa.FixedSizeListArray.from_arrays(pa.array(self.sids.reshape(-1), pa.int32()), self.space.levels)
        pq.write_table(pa.table({"item_id": pa.array(self.item_ids, pa.string()), "sid": codes}), file)

    @cached_property
    def items_of(self) -> dict[tuple[int, ...], list[int]]:
        """Item indices by SID."""
        owners: dict[tuple[int, ...], list[int]] = {}
        for index, sid in enumerate(map(tuple, self.sids.tolist())):
            owners.setdefault(sid, []).append(index)
        return owners

    def written(self, item: int) -> str:
        """Written SID of the item with this index."""
        return self.space.format(self.sids[item].tolist())

    def require_items(self, item_ids: Sequence[str]) -> None:
        """Refuse a table that was made for another catalog."""
        if list(item_ids) != self.item_ids:
            missing = set(item_ids) - set(self.item_ids)
            raise ArtifactError(
                "the SID table belongs to another catalog",
                seen=f"{len(self.item_ids)} items in the table, {len(item_ids)} asked for, {len(missing)} without SID",
                allowed="the same items in the same order",
                fix="run `genrecall sid build` (or `sid append` for new items) on this catalog",
            )
