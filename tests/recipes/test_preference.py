"""Negatives out of beams by hand; the stage and the parallel head at toy size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tests import pipeline, synthetic

from genrecall.artifacts import open_artifact
from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Cases, refitted
from genrecall.catalog.store import Catalog, import_catalog
from genrecall.errors import DataError
from genrecall.eval.harness import evaluate
from genrecall.model.trunk import TrunkConfig
from genrecall.recall.sasrec import SasrecConfig
from genrecall.recipes import generators
from genrecall.recipes.parallel import PRODUCT_CODES, parallel
from genrecall.recipes.preference import halves, negatives, preferred
from genrecall.recipes.run import run
from genrecall.recipes.study import Study, suited_to
from genrecall.sid.build import SidConfig
from genrecall.sid.pq import PqConfig
from genrecall.sid.rq_kmeans import RqKMeansConfig
from genrecall.text.vectors import Vectors
from genrecall.train.preference import PreferenceConfig
from genrecall.train.sequence.config import SequenceConfig


def test_beams_that_the_user_chose_are_no_negatives() -> None:
    sids = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 0]], dtype=np.int32)  # items 4 and 5 are alike
    found = np.array([[2, 0, 1, 3], [3, 5, 0, -1]])
    chosen = np.array([[0, 3], [1, 4]])
    config = PreferenceConfig(negatives=3)
    items, weights = negatives(found, chosen, sids, config)
    assert items.dtype == np.int32
    assert items[0, :2].tolist() == [2, 1]
    assert items[1, :2].tolist() == [3, 0]
    assert (weights > 0).tolist() == [[True, True, False]] * 2
    gain = 1 / np.log2(np.arange(5) + 2)
    first, second = abs(gain[1] - gain[0]), abs(gain[1] - gain[2])  # the positive stands second, in row 1 nowhere
    np.testing.assert_allclose(weights[0, :2], 2 * np.array([first, second]) / (first + second), rtol=2e-3)
    costs = np.array([gain[0] - gain[4], gain[2] - gain[4]])
    np.testing.assert_allclose(weights[1, :2], 2 * costs / costs.sum(), rtol=2e-3)
    even = negatives(found, chosen, sids, dataclasses.replace(config, rank_aware=False))[1]
    assert even.tolist() == [[1, 1, 0]] * 2
    wide = negatives(found, chosen, sids, dataclasses.replace(config, negatives=6))
    assert wide[0].shape == wide[1].shape == (2, 6)


TRAIN = SequenceConfig(epochs=2, eval_every=1, window=8, batch_tokens=128, lengths=(), learning_rate=5e-3, device="cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Catalog, Vectors, Study]:
    out = tmp_path_factory.mktemp("preference")
    source = synthetic.write(out / "source", users=60, items=40, events=8)
    files = {name: source / f"{name}.parquet" for name in ("items", "events", "users")}
    catalog = import_catalog(files, out / "catalog")
    pipeline.vectors(catalog, out / "vectors")
    table = SidConfig(levels=2, codes=8, quantizer="rq_kmeans", rq_kmeans=RqKMeansConfig(steps=3))
    study = dataclasses.replace(
        suited_to(catalog, name="toy", small=True),
        tables=(table,),
        trunk=TrunkConfig(width=32, layers=1, depth_layers=1, heads=2, window=8),
        train=TRAIN,
        teacher=None,
        validation_cases=30,
    )
    return out, catalog, Vectors.load(out / "vectors"), study


@pytest.mark.slow
def test_the_stage_keeps_what_is_better_and_says_which(world: tuple[Path, Catalog, Vectors, Study]) -> None:
    out, catalog, vectors, study = world
    split = study.split.divide(catalog)
    sids = generators.tables(catalog, vectors, split, study, out)
    model = generators.generators(catalog, split, study, sids, None, out)[0]
    before = {name: (model / name).read_bytes() for name in ("trunk.safetensors", "trunk.json", "item_prompt.json")}
    kept = set()
    for name, rate in (("better", 2e-3), ("worse", 0.5)):
        train = dataclasses.replace(TRAIN, epochs=6, learning_rate=rate)
        config = PreferenceConfig(beam=6, negatives=4, nll=1.0, kl=0.1, train=train)
        made = preferred(catalog, split, study, sids[0], model, out / name, config)
        manifest = open_artifact(made, kind="model").manifest
        told = manifest.facts["preference"]
        kept.add(told["kept"])
        assert manifest.parents["model"] == open_artifact(model).digest
        assert manifest.parents["sid"] == open_artifact(sids[0]).digest
        improved = told["stopping"][1] > told["stopping"][0]
        assert (told["kept"] == "new") == (improved and told["after"]["ndcg@10"] > told["before"]["ndcg@10"])
        change = told["change"]["ndcg@10"]
        assert change["mean"] == pytest.approx(told["after"]["ndcg@10"] - told["before"]["ndcg@10"], abs=1e-9)
        assert change["low"] <= change["mean"] <= change["high"]
        assert ((made / "trunk.safetensors").read_bytes() == before["trunk.safetensors"]) == (told["kept"] == "old")
        assert (made / "trunk.json").read_bytes() == before["trunk.json"]
        stamp = (made / "manifest.json").stat().st_mtime_ns
        preferred(catalog, split, study, sids[0], model, made, config)  # nothing is done twice
        assert (made / "manifest.json").stat().st_mtime_ns == stamp
    assert kept == {"new", "old"}
    assert all((model / name).read_bytes() == held for name, held in before.items())
    with pytest.raises(DataError):
        preferred(catalog, refitted(split), study, sids[0], model, out / "none")


def test_a_user_who_stops_the_training_does_not_decide() -> None:
    users = np.repeat(np.arange(9), 5)
    histories = Histories.from_lists([[1, 2]] * len(users))
    cases = Cases(histories=histories, users=users, targets=np.zeros(len(users), np.int32), part="validation")
    stopping, deciding = halves(cases, 12)
    assert not set(stopping.users) & set(deciding.users)
    assert len(stopping) == len(deciding) == 12
    assert set(halves(cases, 100)[0].users) | set(halves(cases, 100)[1].users) == set(range(9))


@pytest.mark.slow
def test_a_run_ships_what_was_preferred(world: tuple[Path, Catalog, Vectors, Study]) -> None:
    out, catalog, vectors, study = world
    chosen = PreferenceConfig(beam=6, negatives=4, train=TRAIN)
    study = dataclasses.replace(study, preference=chosen, sasrec=SasrecConfig(width=16, blocks=1, heads=1, train=TRAIN))
    outcome = run(catalog, vectors, study, out / "run", refit_too=True)
    assert "preferences" in outcome.valid.sentence()
    assert outcome.refit is not None
    assert "preferences" not in outcome.refit.sentence()
    seed = out / "run" / "seed-0"
    shipped, learnt = (open_artifact(seed / name).manifest for name in ("bundle", "model-preferred"))
    assert learnt.parents["model"] == open_artifact(seed / "model").digest
    assert learnt.digest in shipped.parents.values()


@pytest.mark.slow
def test_parallel_codes_stand_in_the_table(world: tuple[Path, Catalog, Vectors, Study]) -> None:
    out, catalog, vectors, study = world
    split = study.split.divide(catalog)
    longer = dataclasses.replace(study, train=dataclasses.replace(TRAIN, epochs=12, eval_every=4))
    codes = dataclasses.replace(PRODUCT_CODES, levels=8, codes=8, pq=PqConfig(rounds=2, steps=5))
    channel = parallel(catalog, vectors, split, longer, out / "parallel", codes=codes)
    counts = split.train.item_counts(len(catalog.items))
    evaluation = evaluate(
        [channel], split.valid, num_items=len(catalog.items), protocol=study.split.protocol(split), train_counts=counts,
        profile=catalog.profile_of,
    )  # fmt: skip
    assert evaluation.results["parallel"].metrics["recall@5"].mean > 0.3  # 5 of 40 items by chance: 0.125
    stamp = (out / "parallel" / "channel" / "manifest.json").stat().st_mtime_ns
    again = parallel(catalog, vectors, split, longer, out / "parallel", codes=codes)
    assert (out / "parallel" / "channel" / "manifest.json").stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.scores(split.valid.histories), channel.scores(split.valid.histories))
