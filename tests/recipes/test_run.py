"""`genrecall run`'s stages at toy size: from artifacts to merged tables, and nothing done twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests import pipeline, synthetic

from genrecall.artifacts import open_artifact
from genrecall.bundle.load import Recommender
from genrecall.catalog.store import Catalog, import_catalog
from genrecall.errors import ConfigError
from genrecall.eval.lock import LEDGER
from genrecall.recall.imagined import ImaginedConfig
from genrecall.recall.sasrec import SasrecConfig
from genrecall.recall.teacher import TeacherConfig
from genrecall.recipes.baselines import BESIDE
from genrecall.recipes.named import Named
from genrecall.recipes.run import prepare, run
from genrecall.recipes.study import Study, suited_to
from genrecall.sid.build import SidConfig
from genrecall.sid.rq_kmeans import RqKMeansConfig
from genrecall.train.sequence.config import SequenceConfig

pytestmark = pytest.mark.slow


def toy(study: Study) -> Study:
    train = SequenceConfig(
        epochs=2, eval_every=1, window=8, batch_tokens=128, lengths=(), learning_rate=5e-3, device="cpu"
    )
    table = SidConfig(
        levels=2, codes=8, quantizer="rq_kmeans", rq_kmeans=RqKMeansConfig(steps=3), collaborative_weight=0.5
    )
    return dataclasses.replace(
        study,
        tables=(table, dataclasses.replace(table, levels=3)),
        trunk=dataclasses.replace(study.trunk, width=32, layers=1, depth_layers=1, heads=2, window=8),
        train=train,
        sasrec=SasrecConfig(width=16, blocks=1, heads=1, train=train),
        sasrec_folds=2,
        count_folds=2,
        teacher=TeacherConfig(items=4),
        imagined=ImaginedConfig(ratio=0.5),
        validation_cases=20,
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("study")
    source = synthetic.write(directory / "source", users=60, items=40, events=8)
    files = {name: source / f"{name}.parquet" for name in ("items", "events", "users")}
    pipeline.vectors(import_catalog(files, directory / "catalog"), directory / "vectors")
    return directory


def test_two_seeds_from_artifacts_to_tables(out: Path) -> None:
    catalog, vectors = prepare(Named(name="toy"), out)
    study = toy(suited_to(catalog, name="toy", small=True))
    outcome = run(catalog, vectors, study, out, seeds=[0, 1], final=True, refit_too=True, beams=[5, 20], beside=BESIDE)
    assert outcome.final is not None
    assert outcome.final.num_runs == 2
    assert {
        "fused",
        "generative",
        "sasrec",
        "transition",
        "transition_undirected",
        "item_cf",
        "dense",
        "lexical",
        *BESIDE,
    } <= set(outcome.final.results)
    for part in (outcome.valid, outcome.final):
        assert (
            part.results["generative"].metrics["recall@50"].mean > part.results["popularity"].metrics["recall@5"].mean
        )
    assert outcome.final.results["generative"].invalid_sid_rate == 0
    assert "seed" in (out / "report.md").read_text()
    readings = (out / "seed-0" / LEDGER).read_text().splitlines()
    assert ["final" in readings[0], "refit" in readings[1], "beams" in readings[2]] == [True, True, True]
    assert outcome.refit is not None
    assert "refit" in outcome.refit.sentence()
    for seed in (0, 1):
        first, refitted = (
            open_artifact(out / f"seed-{seed}" / part / "sasrec", kind="channel").manifest for part in (".", "refit")
        )
        assert refitted.config["train"]["epochs"] == (first.facts["best_epoch"] or study.sasrec.train.epochs)
    # Nothing is made, nor the test part read, a second time; also where the run's directory was renamed.
    study = dataclasses.replace(study, name="renamed")
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("seed-*/*/manifest.json")}
    for asked in ((), BESIDE):
        again = run(catalog, vectors, study, out, seeds=[0, 1], final=True, refit_too=True, beams=[5, 20], beside=asked)
    assert {path: path.stat().st_mtime_ns for path in out.glob("seed-*/*/manifest.json")} == stamps
    assert again.final is not None
    assert again.final.results["generative"].metrics == outcome.final.results["generative"].metrics
    assert (out / "seed-0" / LEDGER).read_text().splitlines() == readings


def test_unknown_baselines_are_refused_before_anything_is_made(out: Path, tmp_path: Path) -> None:
    catalog, vectors = prepare(Named(name="toy"), out)
    with pytest.raises(ConfigError, match="gru4rec"):
        run(catalog, vectors, toy(suited_to(catalog, small=True)), tmp_path / "none", beside=["gru4rec"])
    assert not (tmp_path / "none").exists()


def test_settings_follow_the_data(out: Path) -> None:
    catalog = Catalog.load(out / "catalog")
    small, large = suited_to(catalog, small=True), suited_to(catalog)
    assert len(small.tables) < len(large.tables)
    assert large.seeded(3).tables[1].seed != large.seeded(4).tables[1].seed
    assert small.windowed(7).train.window == small.windowed(7).trunk.window == 7


def test_a_bundle_of_two_generators_answers_and_explains(out: Path) -> None:
    catalog, vectors = prepare(Named(name="toy"), out)
    study = toy(suited_to(catalog, name="toy", small=True))
    run(catalog, vectors, study, out, seeds=[0])
    shop = Recommender.load(out / "seed-0" / "bundle", device="cpu")
    answer = shop.recommend(["i0", "i8"], k=5, explain=True)
    assert len({item.item_id for item in answer.items} - {"i0", "i8"}) == 5
    assert answer.answer is not None
    assert answer.answer.levels is not None
    assert any("first of 2 generators" in note for note in answer.notes)
    assert shop.recommend([], k=3).channel == "popularity"
