"""Vectors of a catalog that items were added to: what is there stays, only new texts are read."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from genrecall.catalog.events import Events
from genrecall.catalog.items import Items
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError
from genrecall.text.embed import embed_catalog, extend_vectors


class Lengths:
    """An encoder that counts characters, and remembers what it read."""

    dim = 2

    def __init__(self, name: str = "lengths") -> None:
        self.identity: dict[str, Any] = {"name": name, "dim": 2}
        self.read: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, 2)."""
        self.read += texts
        return np.array([[len(text), 1] for text in texts], np.float32)


def _catalog(*titles: str) -> Catalog:
    table = pa.table({"item_id": [f"i{n}" for n in range(len(titles))], "title": list(titles)})
    return Catalog(items=Items(table=table), events=Events.of([], [], []))


def test_only_new_texts_are_read(tmp_path: Path) -> None:
    known = _catalog("red", "a lamp")
    old = embed_catalog(known, out=tmp_path / "old", encoder=Lengths())
    encoder, larger = Lengths(), _catalog("renamed since", "a lamp", "fresh")
    extend = functools.partial(extend_vectors, tmp_path / "old", larger, known=known)
    new = extend(out=tmp_path / "new", encoder=encoder)
    assert encoder.read == ["renamed since", "fresh"]
    np.testing.assert_array_equal(new.matrix[1], old.matrix[1])
    assert new.matrix[[0, 2]].tolist() == [[13, 1], [5, 1]]
    assert new.item_ids == larger.items.ids
    again = Lengths()
    assert extend(out=tmp_path / "new", encoder=again).digest == new.digest
    assert again.read == []
    with pytest.raises(ArtifactError, match="another encoder"):
        extend(out=tmp_path / "other", encoder=Lengths("others"))
