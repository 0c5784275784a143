"""Stages resume, agree on the split, and are judged under one protocol."""

import dataclasses
from pathlib import Path

import pytest
from tests import pipeline

from genrecall import Recommender
from genrecall.artifacts import open_artifact
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.recipes import stages
from genrecall.recipes.recipe import SplitConfig
from genrecall.sid.build import build_sids
from genrecall.text.vectors import Vectors


def test_evaluation_of_all_channels(run: Path) -> None:
    shop = Recommender.load(run / "bundle", device="cpu")
    catalog = Catalog.load(run / "catalog")
    evaluation = stages.evaluate_bundle(shop, catalog, cases=30, remarks=("a remark",))
    assert set(evaluation.results) == {"generative", "popularity", "item_cf", "transition"}
    assert evaluation.num_cases == 30
    assert evaluation.results["generative"].invalid_sid_rate == 0
    for words in ("leave-one-out", "first-time items", "shuffled", "removed", "a remark", "30 of 60 cases"):
        assert words in evaluation.sentence()
    # 40 items and lists of 50: every channel must find every target.
    assert all(result.metrics["recall@50"].mean == 1 for result in evaluation.results.values())


def test_a_finished_stage_is_not_done_again(run: Path) -> None:
    catalog = Catalog.load(run / "catalog")
    split = pipeline.RECIPE.split.divide(catalog)
    before = (run / "model" / "manifest.json").stat().st_mtime_ns
    stages.train_model(catalog, split, sid=run / "sid", out=run / "model", recipe=pipeline.RECIPE)
    stages.export(catalog, sid=run / "sid", model=run / "model", out=run / "bundle", recipe=pipeline.RECIPE)
    assert (run / "model" / "manifest.json").stat().st_mtime_ns == before


def test_training_is_repeatable(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pipeline.retrained(run, tmp_path / name, seed=3)
    assert open_artifact(tmp_path / "one").digest == open_artifact(tmp_path / "two").digest


def test_sids_of_other_events_are_refused(run: Path, tmp_path: Path) -> None:
    catalog = Catalog.load(run / "catalog")
    other = SplitConfig(repeats="keep").divide(catalog)
    config = dataclasses.replace(pipeline.RECIPE.sid, collaborative_weight=0.5)
    build_sids(
        catalog, Vectors.load(run / "vectors"), out=tmp_path / "sid", config=config, histories=other.train.last(3)
    )
    with pytest.raises(ConfigError, match="other events"):
        stages.train_model(
            catalog,
            pipeline.RECIPE.split.divide(catalog),
            sid=tmp_path / "sid",
            out=tmp_path / "model",
            recipe=pipeline.RECIPE,
        )


@pytest.mark.parametrize("wrong", [{"rule": "random"}, {"repeats": "twice"}, {"history": "hidden"}])
def test_unknown_rules_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="allowed"):
        SplitConfig(**wrong)  # type: ignore[arg-type]


def test_several_items_may_share_a_sid(run: Path, tmp_path: Path) -> None:
    catalog = Catalog.load(run / "catalog")
    config = dataclasses.replace(pipeline.RECIPE.sid, levels=1, codes=8, collisions="keep")
    build_sids(catalog, Vectors.load(run / "vectors"), out=tmp_path / "sid", config=config)
    split = pipeline.RECIPE.split.divide(catalog)
    stages.train_model(catalog, split, sid=tmp_path / "sid", out=tmp_path / "model", recipe=pipeline.RECIPE)
    bundle = stages.export(
        catalog, sid=tmp_path / "sid", model=tmp_path / "model", out=tmp_path / "bundle", recipe=pipeline.RECIPE
    )
    shop = Recommender.load(bundle.path, device="cpu")
    assert len(shop.table.items_of) <= 8 < len(shop.items)
    answer = shop.recommend(["i0"], k=20)
    counts = shop.channels["popularity"].state()["counts"]
    assert len({item.item_id for item in answer.items}) == 20
    for first, second in zip(answer.items, answer.items[1:], strict=False):
        if first.sid == second.sid:
            one, two = shop.items.index[first.item_id], shop.items.index[second.item_id]
            assert (-counts[one], one) < (-counts[two], two)
