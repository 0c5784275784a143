"""Items held out of training, appended and asked for, at toy size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tests import pipeline, synthetic
from tests.recipes.test_run import toy

from genrecall.catalog.split import hold_out_items
from genrecall.catalog.store import Catalog, import_catalog
from genrecall.errors import ConfigError
from genrecall.recipes.cold_start import WarmWorld, cold_start, suited_to_cold
from genrecall.recipes.study import suited_to
from genrecall.sid.table import SidTable
from genrecall.text.vectors import Vectors


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cold")
    source = synthetic.write(directory / "source", users=80, items=40, events=8)
    files = {name: source / f"{name}.parquet" for name in ("items", "events", "users")}
    pipeline.vectors(import_catalog(files, directory / "catalog"), directory / "vectors")
    return directory


def test_the_warm_world_knows_nothing_of_cold_items(out: Path) -> None:
    catalog, vectors = Catalog.load(out / "catalog"), Vectors.load(out / "vectors")
    split, cold = hold_out_items(suited_to(catalog, small=True).split.divide(catalog), share=0.2)
    world = WarmWorld.of(catalog, vectors, split)
    assert set(cold.tolist()) <= set(world.cold.tolist())
    assert len(world.warm) + len(world.cold) == len(catalog.items)
    assert world.catalog.items.ids == world.vectors.item_ids == [catalog.items.ids[item] for item in world.warm]
    np.testing.assert_array_equal(world.warm[world.split.train.items], split.train.items)
    np.testing.assert_array_equal(
        world.warm[world.split.valid.targets], split.valid.targets[~np.isin(split.valid.targets, world.cold)]
    )
    for case in range(3):
        kept = world.split.valid.histories.of(case)
        whole = split.valid.histories.of(np.flatnonzero(~np.isin(split.valid.targets, world.cold))[case])
        np.testing.assert_array_equal(world.warm[kept], whole[~np.isin(whole, world.cold)])


@pytest.mark.slow
def test_cold_items_are_written_by_a_model_that_never_saw_them(out: Path) -> None:
    catalog, vectors = Catalog.load(out / "catalog"), Vectors.load(out / "vectors")
    study = toy(suited_to(catalog, name="toy", small=True))
    study = suited_to_cold(dataclasses.replace(study, generative=dataclasses.replace(study.generative, beam=40)))
    evaluation = cold_start(catalog, vectors, study, out / "run", share=0.2)
    assert set(evaluation.results) == {"generative", "promoting", "lexical", "dense", "popularity"}
    assert evaluation.results["generative"].metrics["recall@50"].mean == 1.0  # a beam of all 40 items
    assert evaluation.results["popularity"].metrics["recall@5"].mean == 0.0
    assert evaluation.results["promoting"].metrics["recall@50"].mean == 1.0
    assert "sid append" in evaluation.sentence()
    assert "without training events" in evaluation.sentence()
    warm, whole = SidTable.load(out / "run" / "sid"), SidTable.load(out / "run" / "sid-appended")
    assert len(warm.sids) < len(whole.sids) == len(catalog.items)
    with pytest.raises(ConfigError):
        cold_start(catalog, vectors, study, out / "run", share=0.0)
