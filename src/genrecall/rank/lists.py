"""Requests with their candidates and what became of them, as parquet: what rankers learn from.

A row is a request: ``unit`` (whose it is, for held-out parts), ``user``, ``profile.<column>``, ``history``,
``candidates`` and ``labels`` (1: taken) of equal length, ``evidence`` (as long times the names in the file's metadata)
and ``state``. Items are positions in the bundle's catalog. Files are read in batches and never as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrecall.errors import DataError
from genrecall.rank.columns import Asked, Ragged

_PROFILE, _EVIDENCE, _ITEMS = "profile.", b"evidence", b"items"
_ROW_GROUP = 512
_COLUMNS = ("unit", "user", "history", "candidates", "labels", "evidence", "state")


@dataclass(frozen=True, kw_only=True, eq=False)
class Lists:
    """R requests with P candidates.

    Attributes:
        asked: as a ranker is told of them.
        labels: float32 (P,).
        units: int64 (R,).
    """

    asked: Asked
    labels: np.ndarray
    units: np.ndarray

    def __len__(self) -> int:
        return len(self.units)


class ListWriter:
    """Appends requests to one file.

    Args:
        file: to be written.
        evidence: names of the evidence.
        profile: profile columns.
        items: digest of the catalog whose positions items are.
    """

    def __init__(self, file: Path, *, evidence: Sequence[str], profile: Sequence[str], items: str) -> None:
        ints, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
        fields = [("unit", pa.int64()), ("user", pa.string())]
        fields += [(_PROFILE + name, pa.string()) for name in profile]
        fields += [("history", ints), ("candidates", ints), ("labels", floats), ("evidence", floats)]
        fields += [("state", floats)]
        metadata = {_EVIDENCE: json.dumps(list(evidence)), _ITEMS: items}
        self._schema, self._profile = pa.schema(fields, metadata=metadata), list(profile)
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, lists: Lists) -> None:
        """Append."""
        asked, width = lists.asked, lists.asked.evidence.shape[1]
        columns: list[pa.Array] = [pa.array(lists.units, pa.int64()), pa.array(list(asked.users), pa.string())]
        columns += [pa.array([own.get(name) for own in asked.profiles], pa.string()) for name in self._profile]
        columns += [_lists(asked.histories), _lists(asked.candidates)]
        columns.append(_lists(Ragged(offsets=asked.candidates.offsets, values=lists.labels.astype(np.float32))))
        columns.append(_lists(Ragged(offsets=asked.candidates.offsets * width, values=asked.evidence.ravel())))
        state = np.empty((len(lists), 0), np.float32) if asked.state is None else asked.state
        offsets = np.arange(len(lists) + 1, dtype=np.int64) * state.shape[1]
        columns.append(_lists(Ragged(offsets=offsets, values=state.ravel().astype(np.float32))))
        self._writer.write_table(pa.table(columns, schema=self._schema), row_group_size=_ROW_GROUP)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class ListReader:
    """Reads a file batch by batch.

    Raises:
        DataError: it is no file of lists.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._parquet = pq.ParquetFile(file)
        schema = self._parquet.schema_arrow
        missing = [name for name in _COLUMNS if name not in schema.names]
        metadata = schema.metadata or {}
        if missing or _EVIDENCE not in metadata:
            raise DataError(
                f"{file} holds no lists to rank",
                seen=f"without {', '.join(missing)}" if missing else "without the names of its evidence",
                allowed=f"columns {', '.join(_COLUMNS)}, and evidence in the metadata",
                fix="write it with genrecall.rank.lists.ListWriter",
            )
        self.evidence: list[str] = json.loads(metadata[_EVIDENCE])
        self.items = metadata[_ITEMS].decode()
        self.profile = [name.removeprefix(_PROFILE) for name in schema.names if name.startswith(_PROFILE)]

    def __len__(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def batches(self, size: int, *, seed: int | None = None) -> Iterator[Lists]:
        """All rows, ``size`` at a time; with ``seed``, row groups and the rows within four of them are shuffled."""
        groups = np.arange(self._parquet.num_row_groups)
        rng = None if seed is None else np.random.default_rng(seed)
        if rng is not None:
            groups = rng.permutation(groups)
        for begin in range(0, len(groups), 4):
            table = self._parquet.read_row_groups(groups[begin : begin + 4].tolist())
            if rng is not None:
                table = table.take(pa.array(rng.permutation(table.num_rows)))
            for start in range(0, table.num_rows, size):
                yield self._lists(table.slice(start, size).combine_chunks())

    def _lists(self, table: pa.Table) -> Lists:
        profile = {name: table[_PROFILE + name].to_pylist() for name in self.profile}
        profiles = [
            {name: told for name, values in profile.items() if (told := values[row]) is not None}
            for row in range(table.num_rows)
        ]
        candidates, state = _ragged(table["candidates"], np.int32), _ragged(table["state"], np.float32)
        labels, evidence = _ragged(table["labels"], np.float32), _ragged(table["evidence"], np.float32)
        width = len(self.evidence)
        if len(labels.values) != len(candidates.values) or len(evidence.values) != width * len(candidates.values):
            raise DataError(
                f"{self.file}: candidates, labels and evidence do not fit",
                seen=f"{len(candidates.values)}, {len(labels.values)}, {len(evidence.values)} numbers in a batch",
                allowed=f"one label and {width} numbers of evidence a candidate",
                fix="write the file again",
            )
        asked = Asked(
            users=table["user"].to_pylist(),
            profiles=profiles,
            histories=_ragged(table["history"], np.int32),
            candidates=candidates,
            evidence=evidence.values.reshape(len(candidates.values), width),
            state=state.values.reshape(table.num_rows, -1) if len(state.values) else None,
        )
        return Lists(asked=asked, labels=labels.values, units=table["unit"].to_numpy())


def _lists(ragged: Ragged) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(ragged.offsets.astype(np.int32)), pa.array(ragged.values))


def _ragged(column: pa.ChunkedArray, dtype: type) -> Ragged:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    return Ragged(offsets=offsets - offsets[0], values=values.astype(dtype, copy=False))
