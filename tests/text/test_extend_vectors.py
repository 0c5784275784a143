"""Vectors of a catalog that items were added to: what is there stays, only new items are read."""

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


def test_only_new_items_are_read(tmp_path: Path) -> None:
    old = embed_catalog(_catalog("red", "a lamp"), out=tmp_path / "old", encoder=Lengths())
    encoder, larger = Lengths(), _catalog("renamed since", "a lamp", "fresh")
    new = extend_vectors(tmp_path / "old", larger, out=tmp_path / "new", encoder=encoder)
    assert encoder.read == ["fresh"]
    np.testing.assert_array_equal(new.matrix[:2], old.matrix)
    assert new.matrix[2].tolist() == [5, 1]
    assert new.item_ids == larger.items.ids
    again = Lengths()
    assert extend_vectors(tmp_path / "old", larger, out=tmp_path / "new", encoder=again).digest == new.digest
    assert again.read == []
    with pytest.raises(ArtifactError, match="another encoder"):
        extend_vectors(tmp_path / "old", larger, out=tmp_path / "other", encoder=Lengths("others"))
