"""What `genrecall run` makes or keeps before it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.catalog.files import EVENTS, put

from genrecall.catalog.sources.open import open_source
from genrecall.catalog.store import import_catalog
from genrecall.errors import ArtifactError, DataError
from genrecall.recipes.named import Named
from genrecall.recipes.run import prepare
from genrecall.text.embed import embed_catalog
from genrecall.text.precomputed import GIVEN
from genrecall.text.vectors import write_vectors


def files(directory: Path, titles: list[str], users: int = 2) -> Named:
    directory.mkdir(exist_ok=True)
    count = 3 * users
    items = put(directory / "items.parquet", item_id=list("abcde")[: len(titles)], title=titles)
    events = put(directory / "events.parquet", **{name: values[:count] for name, values in EVENTS.items()})
    return Named(name="shop", source=open_source(files={"items": items, "events": events}))


def stored(out: Path, shop: Named, encoder: str) -> None:
    assert shop.source is not None
    catalog = import_catalog(shop.source, out / "catalog")
    parents = {"catalog": catalog.digest}
    matrix = np.full((len(catalog.items), 3), 7, np.float32)
    write_vectors(
        out / "vectors", catalog.items.ids, matrix, config={"encoder": {"name": encoder}}, parents=parents, facts={}
    )


def test_other_titles_are_embedded_again(tmp_path: Path) -> None:
    before = files(tmp_path / "a", ["Red cup", "Blue cup", "Green cup", "Tea pot"])
    stored(tmp_path, before, "minilm")
    assert prepare(before, tmp_path)[1].matrix.tolist() == [[7, 7, 7]] * 4  # current: nothing is made
    after = files(tmp_path / "b", ["Lamp", "Chair", "Table", "Bed"])
    catalog, vectors = prepare(after, tmp_path)
    assert catalog.items.titles[0] == "Lamp"
    assert vectors.dim > 3


class Own:
    """An encoder in a directory of the user's."""

    identity, dim = {"name": "own", "dim": 3}, 3

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.full((len(texts), 3), 7, np.float32)


def test_vectors_of_an_own_encoder_stay_with_their_texts(tmp_path: Path) -> None:
    titles = ["Red cup", "Blue cup", "Green cup", "Tea pot"]
    shop = files(tmp_path / "a", titles)
    assert shop.source is not None
    embed_catalog(import_catalog(shop.source, tmp_path / "catalog"), out=tmp_path / "vectors", encoder=Own())
    more = files(tmp_path / "b", titles)
    rows = {name: [*values, values[-1]] for name, values in EVENTS.items()}
    rows["timestamp"][-1] += 10
    put(tmp_path / "b" / "events.parquet", **rows)
    catalog, vectors = prepare(more, tmp_path)
    assert len(catalog.events) == len(EVENTS["user_id"]) + 1
    assert vectors.matrix.tolist() == [[7, 7, 7]] * 4
    with pytest.raises(ArtifactError, match="of other texts") as error:
        prepare(files(tmp_path / "c", ["Lamp", "Chair", "Table", "Bed"]), tmp_path)
    assert "genrecall embed" in error.value.fix


def test_given_vectors_stay_with_their_items(tmp_path: Path) -> None:
    stored(tmp_path, files(tmp_path / "a", ["Red cup", "Blue cup", "Green cup", "Tea pot"]), GIVEN)
    renamed = files(tmp_path / "b", ["Lamp", "Chair", "Table", "Bed"])
    assert prepare(renamed, tmp_path)[1].matrix.tolist() == [[7, 7, 7]] * 4
    with pytest.raises(ArtifactError, match="another catalog"):
        prepare(files(tmp_path / "c", ["Lamp", "Chair", "Table", "Bed", "Rug"]), tmp_path)


def test_too_little_to_judge_by_is_said_before_anything_is_embedded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 validation cases in 3 events"):
        prepare(files(tmp_path / "a", ["Red cup", "Blue cup", "Green cup", "Tea pot"], users=1), tmp_path)
    assert not (tmp_path / "vectors").exists()
