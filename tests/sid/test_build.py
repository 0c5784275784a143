"""Build, look at and append, as a library and as verbs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from genrecall import artifacts
from genrecall.catalog.sources.open import open_source
from genrecall.catalog.store import Catalog, import_catalog
from genrecall.cli.sid import app
from genrecall.errors import ArtifactError, CapacityError, ConfigError, DataError
from genrecall.sid.append import append_sids
from genrecall.sid.behaviour import Behaviour
from genrecall.sid.build import build_sids, is_built
from genrecall.sid.config import SidConfig
from genrecall.sid.rq_vae import RqVaeConfig
from genrecall.sid.store import StoredSids
from genrecall.sid.table import SidTable
from genrecall.text.vectors import write_vectors
from tests import synthetic
from tests.sid.clouds import cloud

ITEMS = 48
IDENTITY = {"name": "cloud", "version": "1", "dim": 12, "pooling": "none", "digest": ""}
SMALL = SidConfig(levels=3, codes=8, quantizer="rq_kmeans")


@dataclass(frozen=True)
class Given:
    """Vectors without an encoder."""

    item_ids: list[str]
    matrix: np.ndarray
    identity: dict[str, Any]
    digest: str = "sha256:vectors"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    place = tmp_path_factory.mktemp("catalog")
    return import_catalog(open_source(synthetic.write(place / "source", users=24, items=ITEMS)), place / "catalog")


@pytest.fixture(scope="module")
def vectors(catalog: Catalog) -> Given:
    return Given(catalog.items.ids, cloud(items=ITEMS, groups=8), IDENTITY)


def test_builds_equal_artifacts_and_skips(catalog: Catalog, vectors: Given, tmp_path: Path) -> None:
    table = build_sids(catalog, vectors, out=tmp_path / "a", config=SMALL)
    assert build_sids(catalog, vectors, out=tmp_path / "b", config=SMALL).digest == table.digest
    assert len(table.items_of) == ITEMS
    loaded = SidTable.load(tmp_path / "a")
    assert np.array_equal(loaded.sids, table.sids)
    loaded.require_items(catalog.items.ids)
    assert is_built(tmp_path / "a", SMALL, catalog, vectors, None)
    assert not is_built(tmp_path / "a", replace(SMALL, seed=1), catalog, vectors, None)
    assert not is_built(tmp_path / "missing", SMALL, catalog, vectors, None)


@pytest.mark.parametrize("rule", ["sinkhorn", "extra_level", "keep"])
def test_every_rule_is_stored_and_current(catalog: Catalog, vectors: Given, tmp_path: Path, rule: Any) -> None:
    config = replace(SMALL, levels=2, codes=8 if rule == "sinkhorn" else 3, collisions=rule)
    table = build_sids(catalog, vectors, out=tmp_path / "sid", config=config)
    assert (len(table.items_of) == ITEMS) == (rule != "keep")
    assert is_built(tmp_path / "sid", config, catalog, vectors, None)


def test_too_few_codes_are_refused_before_any_work(catalog: Catalog, vectors: Given, tmp_path: Path) -> None:
    with pytest.raises(CapacityError) as caught:
        build_sids(catalog, vectors, out=tmp_path / "sid", config=replace(SMALL, levels=1, codes=8))
    assert "8 SIDs for 48 items" in caught.value.seen
    assert "--levels" in caught.value.fix
    assert not (tmp_path / "sid").exists()


def test_bad_configuration_is_refused(catalog: Catalog, vectors: Given, tmp_path: Path) -> None:
    for wrong in ({"quantizer": "vq"}, {"collisions": "luck"}, {"collaborative_weight": 2.0}, {"levels": 0}):
        with pytest.raises(ConfigError):
            SidConfig(**wrong)
    with pytest.raises(ConfigError, match="training events"):
        build_sids(catalog, vectors, out=tmp_path / "sid", config=replace(SMALL, collaborative_weight=0.5))
    with pytest.raises(ArtifactError, match="another catalog"):
        build_sids(catalog, replace(vectors, item_ids=["x"] * ITEMS), out=tmp_path / "sid", config=SMALL)


def test_appended_items_leave_old_rows_alone(catalog: Catalog, vectors: Given, tmp_path: Path) -> None:
    histories = catalog.events.histories()
    config = replace(SMALL, collaborative_weight=0.5)
    old = build_sids(catalog, vectors, out=tmp_path / "sid", config=config, histories=histories)
    new = vectors.matrix[:5].copy()  # copies of old items: their nearest SIDs are taken
    grown = append_sids(tmp_path / "sid", [f"n{i}" for i in range(5)], new, out=tmp_path / "grown", identity=IDENTITY)
    assert grown.item_ids == [*old.item_ids, "n0", "n1", "n2", "n3", "n4"]
    assert np.array_equal(grown.sids[:ITEMS], old.sids)
    assert len(grown.items_of) == ITEMS + 5
    stored = StoredSids.load(tmp_path / "grown")
    assert stored.quality["appended"][0]["items"] == 5
    parents = artifacts.open_artifact(tmp_path / "grown").manifest.parents
    assert parents == {"sid": old.digest, "histories": histories.digest}

    whole = ["n9", *old.item_ids]  # a whole new catalog, in its own order
    matrix = np.concatenate([new[:1], vectors.matrix])
    again = append_sids(tmp_path / "grown", whole[:1], matrix[:1], out=tmp_path / "more")
    assert np.array_equal(again.sids[: ITEMS + 5], grown.sids)
    ordered = append_sids(tmp_path / "sid", whole, matrix, out=tmp_path / "ordered")
    assert ordered.item_ids == whole
    assert np.array_equal(ordered.sids[1:], old.sids)


def test_appending_nothing_leaves_the_table_as_it_is(catalog: Catalog, vectors: Given, tmp_path: Path) -> None:
    old = build_sids(catalog, vectors, out=tmp_path / "sid", config=SMALL)
    for out in ("sid", "copy"):  # another digest would train every model again, and refuse to build
        same = append_sids(tmp_path / "sid", old.item_ids, vectors.matrix, out=tmp_path / out, identity=IDENTITY)
        assert same.digest == old.digest
        assert SidTable.load(tmp_path / out).digest == old.digest


def test_aligned_sids_learn_from_given_vectors_and_new_items_need_none(
    catalog: Catalog, vectors: Given, tmp_path: Path
) -> None:
    histories = catalog.events.histories()
    vae = RqVaeConfig(hidden=(16,), latent=8, min_steps=10, epochs=1, alignment_weight=1.0)
    config = replace(SMALL, quantizer="rq_vae", codes=16, rq_vae=vae)
    given = Behaviour(matrix=cloud(items=ITEMS, dim=5, seed=1), identity={"source": "sasrec"}, catalog=catalog.digest)
    build_sids(catalog, vectors, out=tmp_path / "sid", config=config, histories=histories, behaviour=given)
    manifest = artifacts.open_artifact(tmp_path / "sid").manifest
    assert manifest.config["collaborative"] == {"source": "sasrec", "digest": given.digest}
    assert manifest.parents["histories"] == histories.digest  # not named by the vectors: the caller's word
    assert is_built(tmp_path / "sid", config, catalog, vectors, histories, given)
    other = replace(given, matrix=given.matrix + 1, digest="")
    assert not is_built(tmp_path / "sid", config, catalog, vectors, histories, other)
    grown = append_sids(tmp_path / "sid", ["n"], vectors.matrix[:1] + 0.01, out=tmp_path / "grown", identity=IDENTITY)
    assert len(grown.items_of) == ITEMS + 1
    with pytest.raises(ArtifactError, match="another catalog"):
        build_sids(catalog, vectors, out=tmp_path / "x", config=config, behaviour=replace(given, catalog="sha256:no"))
    with pytest.raises(ConfigError, match="training events"):
        build_sids(catalog, vectors, out=tmp_path / "x", config=config)


def test_append_refuses_other_encoders_repeats_and_a_full_space(
    catalog: Catalog, vectors: Given, tmp_path: Path
) -> None:
    build_sids(catalog, vectors, out=tmp_path / "sid", config=replace(SMALL, levels=2, codes=7))
    with pytest.raises(ArtifactError, match="another encoder"):
        append_sids(tmp_path / "sid", ["n"], vectors.matrix[:1], out=tmp_path / "x", identity={"name": "other"})
    with pytest.raises(ArtifactError, match="width"):
        append_sids(tmp_path / "sid", ["n"], vectors.matrix[:1, :4], out=tmp_path / "x")
    with pytest.raises(DataError, match="twice"):
        append_sids(tmp_path / "sid", ["n", "n"], vectors.matrix[:2], out=tmp_path / "x")
    with pytest.raises(CapacityError):
        append_sids(tmp_path / "sid", ["n", "m"], vectors.matrix[:2], out=tmp_path / "x")
    assert len(append_sids(tmp_path / "sid", ["n"], vectors.matrix[:1], out=tmp_path / "x").items_of) == 49


def test_rq_vae_is_the_default(catalog: Catalog, vectors: Given, tmp_path: Path) -> None:
    config = SidConfig(levels=2, codes=16, rq_vae=RqVaeConfig(hidden=(16,), latent=8, min_steps=10, epochs=1))
    build_sids(catalog, vectors, out=tmp_path / "sid", config=config)
    assert StoredSids.load(tmp_path / "sid").quantizer.name == "rq_vae"


def test_verbs(catalog: Catalog, vectors: Given, tmp_path: Path) -> None:
    run = tmp_path / "run"
    source = synthetic.write(tmp_path / "source", users=24, items=ITEMS)
    import_catalog(open_source(source), run / "catalog")
    write_vectors(run / "vectors", vectors.item_ids, vectors.matrix, config={"encoder": IDENTITY}, parents={}, facts={})

    def call(*options: str) -> str:
        done = CliRunner().invoke(app, [options[0], "--run", str(run), *options[1:]], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    options = ("--levels", "3", "--codes", "8", "--quantizer", "rq_kmeans", "--collaborative-weight", "0.3", "--json")
    built = json.loads(call("build", *options))
    assert built["collision_rate"]["after"] == 0
    assert json.loads(call("build", *options))["digest"] == built["digest"]
    np.save(run / "behaviour.npy", cloud(items=ITEMS, dim=5))
    given = ("--behaviour-vectors", str(run / "behaviour.npy"), "--out", str(run / "given"))
    assert json.loads(call("build", *options, *given))["digest"] != built["digest"]
    text = call("inspect", "--plots", str(run / "plots"))
    assert "Levels" in text
    assert len(list((run / "plots").glob("*.png"))) == 4
    assert json.loads(call("inspect", "--json"))["digest"] == built["digest"]
    shown = json.loads(call("inspect", "--item", "i3", "--json"))
    assert shown["title"].startswith("red")
    assert len(shown["by_sid"]) == len(shown["by_vector"]) == 8
    assert "Neighbours by SID" in call("inspect", "--item", "i3")
    with pytest.raises(DataError, match="no SID"):
        call("inspect", "--item", "nothing")

    more = [*vectors.item_ids, "n0"]
    matrix = np.concatenate([vectors.matrix, vectors.matrix[:1]])
    write_vectors(run / "vectors", more, matrix, config={"encoder": IDENTITY}, parents={}, facts={})
    with pytest.raises(ArtifactError, match="another catalog"):
        call("append")
    appended = json.loads(call("append", "--vectors", str(run / "vectors"), "--json"))
    assert list(appended["appended"]) == ["n0"]
    assert appended["items"] == ITEMS + 1
