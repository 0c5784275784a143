"""Where a recipe's files come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrecall.catalog.config import ImportConfig
from genrecall.catalog.store import import_catalog
from genrecall.errors import ConfigError, DataError
from genrecall.recipes.named import resolve, study_of

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t3\t100\n1\t11\t4\t200\n2\t10\t5\t300\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\n10\tToy Story\t1995\n11\tHeat\t1995\n"


def test_a_recipe_reads_the_format_that_its_folder_has(tmp_path: Path) -> None:
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    (folder / "ml-100k.inter").write_text(INTER)
    (folder / "ml-100k.item").write_text(ITEM)
    (folder / "ml-100k.user").write_text("user_id:token\tage:token\n1\t24\n2\t53\n")
    for data in (folder, tmp_path):
        named = resolve("movielens_100k", data, {}, tmp_path / "run")
        assert named.source is not None
        assert len(import_catalog(named.source, tmp_path / "catalog").items) == 2


def test_the_embedded_recipe_needs_no_folder(tmp_path: Path) -> None:
    assert resolve("online_retail", None, {}, tmp_path).source is not None


def test_baskets_are_gone_through_often_enough_on_a_gpu(tmp_path: Path) -> None:
    named = resolve("online_retail", None, {}, tmp_path)
    assert named.source is not None
    catalog = import_catalog(named.source, tmp_path / "catalog")
    large, small = (study_of(named, catalog, small=small, device="cpu").train for small in (False, True))
    assert (large.epochs, small.epochs) == (20, 10)
    assert large.eval_every == large.epochs / 6


@pytest.mark.parametrize("recipe", ["amazon_beauty", None])
def test_a_catalog_that_is_there_needs_no_files(tmp_path: Path, recipe: str | None) -> None:
    (tmp_path / "catalog").mkdir()
    assert resolve(recipe, None, {}, tmp_path).source is None


def test_options_of_an_import_need_files_of_the_users_own(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\na,cup\n")
    config = ImportConfig(first_of_duplicate_items=True)
    assert resolve(None, None, {"items": items}, tmp_path, config).config == config
    (tmp_path / "catalog").mkdir()
    for recipe in ("online_retail", None):
        with pytest.raises(ConfigError, match="without files"):
            resolve(recipe, None, {"items": None}, tmp_path, config)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for recipe in ("amazon_beauty", "amazon_meauty", None):
        with pytest.raises(ConfigError):
            resolve(recipe, None, {}, tmp_path)
    with pytest.raises(DataError):
        resolve("amazon_beauty", tmp_path, {}, tmp_path)
