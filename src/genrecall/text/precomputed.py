"""The stage with vectors made elsewhere: image vectors, behaviour vectors, another team's text vectors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrecall.artifacts import is_current, sha256
from genrecall.catalog.sources.source import UNREADABLE, reason
from genrecall.errors import ConfigError, DataError
from genrecall.telemetry import log
from genrecall.text.embed import parents_of
from genrecall.text.vectors import KIND, Vectors, write_vectors

if TYPE_CHECKING:
    from genrecall.catalog.store import Catalog

GIVEN = "precomputed"
"""The encoder's name of vectors that were made elsewhere."""
_EXAMPLES = 5


def import_vectors(
    catalog: Catalog, file: Path | str, out: Path | str, *, ids: Path | str | None = None, force: bool = False
) -> Vectors:
    """Check vectors against the catalog, put them in its order, and write the artifact.

    Args:
        catalog: every item of it needs a vector; vectors of other items are counted and left out.
        file: ``.parquet`` with ``item_id`` and one column of lists, or ``.npy`` (N, D).
        out: directory of the artifact.
        ids: for ``.npy``: item ids by row (``.parquet`` with ``item_id``, or text with one id a line); without it,
            row ``i`` belongs to the catalog's item ``i``.
        force: import even if ``out`` is current.
    """
    file = Path(file)
    for given in (file, *([Path(ids)] if ids else [])):
        if not given.is_file():
            raise ConfigError("there is no such file", seen=given, allowed="an existing file", fix="correct the path")
    sources = [sha256(file), *([sha256(Path(ids))] if ids else [])]
    item_ids, matrix = _read(file, Path(ids) if ids else None, catalog)
    identity = {
        "name": GIVEN, "version": "", "dim": int(matrix.shape[1]), "pooling": "given",
        "digest": "sha256:" + "+".join(sources),
    }  # fmt: skip
    config, parents = {"encoder": identity, "template": None}, parents_of(catalog)
    if not force and is_current(out, kind=KIND, config=config, parents=parents):
        log(f"vectors in {out} are current: nothing to do")
        return Vectors.load(out)
    ordered, extra = _align(catalog.items.ids, item_ids, matrix, file)
    zeros = np.flatnonzero(~ordered.any(axis=1))
    if len(zeros):
        log(f"{len(zeros)} vectors are all zero, such as of {_some(catalog.items.ids[i] for i in zeros)}")
    if extra:
        log(f"{extra} vectors belong to no item of the catalog and are left out")
    facts = {"extra_vectors": extra, "zero_vectors": len(zeros)}
    return write_vectors(out, catalog.items.ids, ordered, config=config, parents=parents, facts=facts)


def _read(file: Path, ids: Path | None, catalog: Catalog) -> tuple[list[str], np.ndarray]:
    if file.suffix == ".parquet":
        return _read_parquet(file)
    if file.suffix == ".npy":
        return _read_npy(file, ids, catalog)
    raise DataError(
        "vectors of this kind cannot be read", seen=file.name, allowed=".parquet or .npy", fix="convert the file"
    )


def _read_parquet(file: Path) -> tuple[list[str], np.ndarray]:
    table = _table(file)
    lists = [f.name for f in table.schema if pa.types.is_list(f.type) or pa.types.is_fixed_size_list(f.type)]
    lists += [f.name for f in table.schema if pa.types.is_large_list(f.type)]
    column = "vector" if "vector" in lists else lists[0] if len(lists) == 1 else None
    if column is None or "item_id" not in table.column_names:
        raise DataError(
            f"{file.name} does not hold item vectors",
            seen=", ".join(f"{f.name}: {f.type}" for f in table.schema),
            allowed="the columns item_id and vector (a list of floats)",
            fix="rename the columns; with several columns of lists, call the one that is meant vector",
        )
    vectors = table[column].combine_chunks()
    lengths = vectors.value_lengths().to_numpy(zero_copy_only=False) if len(vectors) else np.zeros(0)
    numeric = pa.types.is_floating(vectors.type.value_type) or pa.types.is_integer(vectors.type.value_type)
    if vectors.null_count or not numeric or len(set(lengths.tolist())) != 1 or lengths[0] < 1:
        sizes = sorted({int(length) for length in lengths[~np.isnan(lengths)]}) if len(lengths) else []
        raise DataError(
            f"the vectors in {file.name} are not of one shape",
            seen=f"{len(vectors)} rows of {vectors.type}, {vectors.null_count} missing, lengths {sizes[:8]}",
            allowed="at least one row; in every row a list of numbers of the same length",
            fix="leave out rows without vector, and write all vectors with one model",
        )
    flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return table["item_id"].cast(pa.string()).to_pylist(), flat.reshape(len(vectors), -1)


def _read_npy(file: Path, ids: Path | None, catalog: Catalog) -> tuple[list[str], np.ndarray]:
    try:
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        seen = str(error)
    else:
        seen = f"{matrix.dtype} {matrix.shape}"
        if matrix.ndim == 2 and matrix.dtype.kind in "fiu" and matrix.shape[1]:
            item_ids = _read_ids(ids) if ids else catalog.items.ids
            return _require_rows(item_ids, np.asarray(matrix, dtype=np.float32), file, ids)
    raise DataError(
        f"{file.name} does not hold item vectors", seen=seen,
        allowed="a matrix of numbers, one row an item", fix="write it with numpy.save(file, matrix.astype('float32'))",
    )  # fmt: skip


def _require_rows(
    item_ids: list[str], matrix: np.ndarray, file: Path, ids: Path | None
) -> tuple[list[str], np.ndarray]:
    if len(item_ids) == len(matrix):
        return item_ids, matrix
    owner = f"ids in {ids.name}" if ids else "items in the catalog"
    raise DataError(
        f"rows of {file.name} and item ids do not match",
        seen=f"{len(matrix)} rows, {len(item_ids)} {owner}",
        allowed="one row an id; without --ids, one row for each item of the catalog in its order",
        fix="name the rows with --ids FILE (one item id a line), or give a parquet file with item_id and vector",
    )


def _read_ids(file: Path) -> list[str]:
    if file.suffix != ".parquet":
        return file.read_text(encoding="utf-8").split("\n")[: -1 if file.read_bytes().endswith(b"\n") else None]
    table = _table(file)
    if "item_id" not in table.column_names:
        raise DataError(
            f"{file.name} holds no item ids",
            seen=", ".join(table.column_names),
            allowed="the column item_id",
            fix="rename the column",
        )
    return list(table["item_id"].cast(pa.string()).to_pylist())


def _table(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except UNREADABLE as error:
        raise DataError(
            f"{file.name} cannot be read", seen=reason(error), allowed="a parquet file",
            fix="write the file again",
        ) from None  # fmt: skip


def _align(item_ids: list[str], given: list[str], matrix: np.ndarray, file: Path) -> tuple[np.ndarray, int]:
    """Rows in the catalog's order, and how many vectors belong to no item."""
    row_of = {item_id: row for row, item_id in enumerate(given)}
    if len(row_of) < len(given):
        twice = (item_id for row, item_id in enumerate(given) if row_of[item_id] != row)
        raise DataError(
            f"{len(given) - len(row_of)} item ids stand more than once in {file.name}",
            seen=_some(twice), allowed="one vector an item", fix="keep one row of each item",
        )  # fmt: skip
    missing = [item_id for item_id in item_ids if item_id not in row_of]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(item_ids)} items have no vector in {file.name}",
            seen=f"no vector for {_some(missing)}",
            allowed="a vector for every item of the catalog",
            fix="add the missing vectors, import without these items, or check that the ids are written alike",
        )
    ordered = matrix[np.fromiter((row_of[item_id] for item_id in item_ids), np.int64, len(item_ids))]
    broken = np.flatnonzero(~np.isfinite(ordered).all(axis=1))
    if len(broken):
        raise DataError(
            f"{len(broken)} vectors in {file.name} hold numbers that are not finite",
            seen=f"item_id {_some(item_ids[i] for i in broken)}",
            allowed="finite numbers",
            fix="compute these vectors again",
        )
    return ordered, len(given) - len(item_ids)


def _some(names: Iterable[str | None]) -> str:
    """The first few of many."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:_EXAMPLES]) + (", …" if len(listed) > _EXAMPLES else "")
