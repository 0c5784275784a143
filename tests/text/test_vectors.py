from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.conftest import LetterEncoder, make_catalog, make_items

from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError, ConfigError, DataError
from genrecall.text.batching import batches_of_tokens
from genrecall.text.embed import embed_catalog
from genrecall.text.precomputed import import_vectors
from genrecall.text.vectors import Vectors


def test_embedding_is_stored_and_read_in_catalog_order(catalog: Catalog, tmp_path: Path) -> None:
    encoder = LetterEncoder()
    made = embed_catalog(catalog, out=tmp_path / "vectors", encoder=encoder)
    read = Vectors.load(tmp_path / "vectors")
    assert read.item_ids == made.item_ids == catalog.items.ids
    assert read.digest == made.digest
    assert read.identity == encoder.identity
    assert read.matrix.dtype == np.float32
    np.testing.assert_array_equal(read.matrix, made.matrix)
    np.testing.assert_array_equal(read.matrix[0], read.matrix[3])
    assert read.matrix[1, ord("k") - 97] == 1
    assert np.load(tmp_path / "vectors" / "vectors.npy").dtype == np.float16
    assert encoder.calls == [["red lamp", "blue clock", "green basket"]]  # each once, short ones first


def test_current_vectors_are_kept_until_something_changes(catalog: Catalog, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    first, second = LetterEncoder(), LetterEncoder()
    made = embed_catalog(catalog, out=out, encoder=first)
    assert embed_catalog(catalog, out=out, encoder=second).digest == made.digest
    assert not second.calls
    changed = embed_catalog(catalog, out=out, encoder=second, template="item {title}")
    assert second.calls
    assert changed.digest != made.digest
    embed_catalog(catalog, out=out, encoder=second, template="item {title}", force=True)
    assert len(second.calls) == 2


def test_vectors_of_another_catalog_are_refused(catalog: Catalog, tmp_path: Path) -> None:
    made = embed_catalog(catalog, out=tmp_path / "vectors", encoder=LetterEncoder())
    made.require_items(catalog.items.ids)
    with pytest.raises(ArtifactError, match="another catalog"):
        made.require_items(["i0", "i9"])


def test_encoder_with_broken_weights_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    class Broken(LetterEncoder):
        def encode(self, texts: Any) -> np.ndarray:
            return np.where(np.arange(26) == 3, np.nan, super().encode(texts)).astype(np.float32)

    with pytest.raises(DataError, match="not finite"):
        embed_catalog(catalog, out=tmp_path / "vectors", encoder=Broken())
    assert not (tmp_path / "vectors").exists()


def test_parquet_vectors_are_ordered_and_extras_counted(catalog: Catalog, tmp_path: Path) -> None:
    rows = {"item_id": ["i3", "x", "i1", "i0", "i2"], "image": [[3.0, 0], [9, 9], [1, 0], [0, 0], [2, 0]]}
    pq.write_table(pa.table(rows), tmp_path / "v.parquet")
    made = import_vectors(catalog, tmp_path / "v.parquet", tmp_path / "vectors")
    np.testing.assert_array_equal(made.matrix, [[0, 0], [1, 0], [2, 0], [3, 0]])
    assert made.identity["name"] == "precomputed"
    assert made.dim == 2
    assert import_vectors(catalog, tmp_path / "v.parquet", tmp_path / "vectors").digest == made.digest


def test_integer_ids_and_fixed_size_lists_are_read(tmp_path: Path) -> None:
    catalog = make_catalog(make_items(title=["a", "b"]))
    table = catalog.items.table.set_column(0, "item_id", pa.array(["7", "8"]))
    catalog = make_catalog(type(catalog.items)(table=table))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0], pa.float32()), 2)
    pq.write_table(pa.table({"item_id": [8, 7], "vector": vectors}), tmp_path / "v.parquet")
    made = import_vectors(catalog, tmp_path / "v.parquet", tmp_path / "vectors")
    np.testing.assert_array_equal(made.matrix, [[3, 4], [1, 2]])


def test_npy_vectors_in_catalog_order_or_named_by_ids(catalog: Catalog, tmp_path: Path) -> None:
    matrix = np.arange(8, dtype=np.float64).reshape(4, 2)
    np.save(tmp_path / "v.npy", matrix)
    plain = import_vectors(catalog, tmp_path / "v.npy", tmp_path / "plain")
    np.testing.assert_array_equal(plain.matrix, matrix)
    (tmp_path / "ids.txt").write_text("i3\ni2\ni1\ni0\n")
    named = import_vectors(catalog, tmp_path / "v.npy", tmp_path / "named", ids=tmp_path / "ids.txt")
    np.testing.assert_array_equal(named.matrix, matrix[::-1])


def test_values_beyond_float16_keep_float32(catalog: Catalog, tmp_path: Path) -> None:
    matrix = np.array([[1e6, 0], [1, 2], [1e-7, 0], [0, 0]], np.float32)
    np.save(tmp_path / "v.npy", matrix)
    np.testing.assert_array_equal(import_vectors(catalog, tmp_path / "v.npy", tmp_path / "out").matrix, matrix)


def _parquet(**columns: Any) -> pa.Table:
    return pa.table(columns)


GOOD = ["i0", "i1", "i2", "i3"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_parquet(item_id=["i0"], vector=[[1.0]]), "3 of 4 items have no vector"),
        (_parquet(item_id=[*GOOD, "i0"], vector=[[1.0]] * 5), "more than once"),
        (_parquet(item_id=GOOD, vector=[[1.0], [1.0, 2.0], [1.0], [1.0]]), "not of one shape"),
        (_parquet(item_id=GOOD, vector=[[1.0], None, [1.0], [1.0]]), "not of one shape"),
        (_parquet(item_id=GOOD, vector=[["a"], ["b"], ["c"], ["d"]]), "not of one shape"),
        (_parquet(item_id=GOOD, vector=[[1.0], [float("nan")], [1.0], [1.0]]), "not finite"),
        (_parquet(item_id=GOOD, vector=pa.array([[1.0], [None], [1.0], [1.0]])), "not finite"),
        (_parquet(item_id=GOOD, a=[[1.0]] * 4, b=[[1.0]] * 4), "does not hold item vectors"),
        (_parquet(item_id=GOOD, vector=[1.0] * 4), "does not hold item vectors"),
        (_parquet(sku=GOOD, vector=[[1.0]] * 4), "does not hold item vectors"),
        (_parquet(item_id=pa.array([], pa.string()), vector=pa.array([], pa.list_(pa.float32()))), "not of one shape"),
    ],
)
def test_bad_parquet_vectors_are_refused(catalog: Catalog, tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(DataError, match=message):
        import_vectors(catalog, tmp_path / "v.parquet", tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((3, 2)), "do not match"),
        (np.ones(4), "does not hold item vectors"),
        (np.array(["a", "b"]), "does not hold item vectors"),
        (np.array([{}, {}]), "does not hold item vectors"),  # pickled objects: never read
    ],
)
def test_bad_npy_vectors_are_refused(catalog: Catalog, tmp_path: Path, matrix: np.ndarray, message: str) -> None:
    np.save(tmp_path / "v.npy", matrix, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        import_vectors(catalog, tmp_path / "v.npy", tmp_path / "vectors")


def test_files_that_are_not_there_or_not_vectors_are_refused(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        import_vectors(catalog, tmp_path / "nothing.npy", tmp_path / "vectors")
    (tmp_path / "v.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        import_vectors(catalog, tmp_path / "v.parquet", tmp_path / "vectors")
    pq.write_table(pa.table({"item_id": GOOD * 500, "vector": [[1.0, 2.0]] * 2000}), tmp_path / "v.parquet")
    data = bytearray((tmp_path / "v.parquet").read_bytes())
    data[4:40] = b"\xff" * 36
    (tmp_path / "v.parquet").write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        import_vectors(catalog, tmp_path / "v.parquet", tmp_path / "vectors")
    (tmp_path / "v.npy").write_bytes(b"")
    with pytest.raises(DataError, match="does not hold item vectors"):
        import_vectors(catalog, tmp_path / "v.npy", tmp_path / "vectors")
    (tmp_path / "v.csv").write_text("a")
    with pytest.raises(DataError, match="of this kind"):
        import_vectors(catalog, tmp_path / "v.csv", tmp_path / "vectors")


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(1, 40), max_size=50),
    st.integers(1, 120),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_batches_cover_all_texts_within_the_budget(lengths: list[int], budget: int, most: int | None) -> None:
    sizes = np.array(lengths, np.int64)
    batches = batches_of_tokens(sizes, budget, most)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * sizes[batch].max() <= budget
        assert most is None or len(batch) <= most
