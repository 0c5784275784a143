"""Every verb that reads vectors beside a catalog refuses those of other texts than its items have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from genrecall.catalog.items import Items
from genrecall.catalog.store import Catalog
from genrecall.cli.main import app
from genrecall.errors import ArtifactError
from genrecall.recipes.refresh import News, RefreshConfig, refresh
from genrecall.text.embed import embed_catalog

pytestmark = pytest.mark.slow
PARTS = ("catalog", "sid", "model", "bundle")


class _Lengths:
    """An encoder of a text's length."""

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"name": "lengths", "dim": 16}

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[len(text)] * 16 for text in texts], np.float32)


@pytest.fixture
def older(run: Path, tmp_path: Path) -> Path:
    """A run whose first item got another title after its vectors were made."""
    for name in PARTS:
        (tmp_path / name).symlink_to(run / name)
    catalog = Catalog.load(run / "catalog")
    table = catalog.items.table
    titles = pa.array(["what it was called", *catalog.items.titles[1:]])
    before = Items(table=table.set_column(table.column_names.index("title"), "title", titles))
    embed_catalog(replace(catalog, items=before, digest="sha256:before"), out=tmp_path / "vectors", encoder=_Lengths())
    return tmp_path


@pytest.mark.parametrize(
    "verb",
    [
        "rank train",
        "export --two-tower 1 --out {out}",
        "sid build --out {out}",
        "sid append",
        "sid compare",
        "sid inspect --item i3",
    ],
)
def test_vectors_of_other_texts_are_refused(older: Path, verb: str) -> None:
    command = verb.format(out=older / "out").split()
    with pytest.raises(ArtifactError, match="the vectors are of other texts"):
        CliRunner().invoke(app, [*command, "--run", str(older)], catch_exceptions=False)


def test_a_refresh_refuses_them_too(run: Path, older: Path) -> None:
    events = pa.table({"user_id": ["u1"], "item_id": ["i1"], "timestamp": [1_700_000_000]})
    pq.write_table(events, older / "events.parquet")
    news = News(events=older / "events.parquet", vectors=older / "vectors")
    with pytest.raises(ArtifactError, match="the vectors are of other texts"):
        refresh(run, older / "out", news, RefreshConfig())


def test_damaged_vectors_are_not_left_out(older: Path) -> None:
    (older / "vectors" / "vectors.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match="is damaged"):
        CliRunner().invoke(app, ["rank", "train", "--run", str(older)], catch_exceptions=False)
