"""What a bundle answers, and what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests import pipeline

from genrecall import Recommender
from genrecall.artifacts import open_artifact
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError, CapacityError
from genrecall.recall.channel import Query
from genrecall.recipes import stages
from genrecall.sid.build import build_sids
from genrecall.text.vectors import Vectors


@pytest.fixture(scope="module")
def shop(run: Path) -> Recommender:
    return Recommender.load(run / "bundle", device="cpu")


def test_recommendations_are_distinct_items_with_their_own_sids(shop: Recommender) -> None:
    answer = shop.recommend(["i0", "i8"], k=10)
    ids = [item.item_id for item in answer.items]
    assert answer.channel == "generative"
    assert len(set(ids)) == 10
    assert not {"i0", "i8"} & set(ids)
    assert [item.score for item in answer.items] == sorted((item.score for item in answer.items), reverse=True)
    for item in answer.items:
        assert item.sid == shop.table.written(shop.items.index[item.item_id])


def test_seen_items_come_back_when_asked_for(shop: Recommender) -> None:
    answer = shop.recommend(["i0", "i8"], k=len(shop.items), exclude_seen=False)
    assert {item.item_id for item in answer.items} == set(shop.items.ids)


def test_all_but_the_seen_items_can_be_had(shop: Recommender) -> None:
    history = shop.items.ids[:30]
    answer = shop.recommend(history, k=len(shop.items))
    assert {item.item_id for item in answer.items} == set(shop.items.ids[30:])
    assert any("only 10 eligible" in note for note in answer.notes)


def test_k_larger_than_the_catalog_is_refused(shop: Recommender) -> None:
    for k in (0, len(shop.items) + 1):
        with pytest.raises(CapacityError, match="allowed: 1 to"):
            shop.recommend(["i0"], k=k)


def test_cold_start_answers_and_says_so(shop: Recommender) -> None:
    nobody = shop.recommend([], k=5)
    assert nobody.channel == "popularity"
    assert "popular items answer" in nobody.notes[0]
    known = shop.recommend([], profile={"country": "France"}, k=5)
    assert known.channel == "generative"
    assert "profile alone" in known.notes[0]
    assert len(known.items) == 5


def test_unknown_items_of_a_history_are_counted(shop: Recommender) -> None:
    answer = shop.recommend(["gone", "i0", "lost"], k=3)
    assert "2 items of the history" in answer.notes[0]
    assert answer.items == shop.recommend(["i0"], k=3).items


def test_a_prompt_longer_than_the_window_loses_the_oldest_and_says_so(shop: Recommender, run: Path) -> None:
    long = Recommender.load(run / "bundle", device="cpu")
    long.generative.prompts.max_tokens = 12
    answer = long.recommend(shop.items.ids[:10], k=3)
    assert any("oldest" in note for note in answer.notes)
    assert len(answer.items) == 3


def test_explain_keeps_the_beams_of_every_level(shop: Recommender) -> None:
    answer = shop.recommend(["i0"], k=3, explain=True).answer
    assert answer is not None
    assert answer.levels is not None
    assert [level.level for level in answer.levels] == [0, 1]
    assert [beam.prefix for beam in answer.levels[-1].beams[:3]] == answer.sids[:3]


def test_channel_scores_are_those_of_teacher_forcing(shop: Recommender) -> None:
    query = Query(history=np.array([3, 11], np.int32), exclude=np.array([3, 11], np.int32))
    found = shop.generative.recall([query], 8)
    answer = shop.generative.answer([query], 8)[0]
    request_tokens = tuple(shop.generative.prompts.encode(query.history))
    from genrecall.engine.host.request import Request

    sids = [tuple(shop.table.sids[item].tolist()) for item in found.items[0]]
    exact = shop.generative.engine.score([Request(tokens=request_tokens)], [sids])[0]
    np.testing.assert_allclose(found.scores[0], exact, atol=1e-4)
    assert shop.generative.invalid_sid_rate == 0
    assert len(answer.sids) >= 8


def test_equal_bundles_have_equal_digests_and_a_flipped_bit_is_refused(run: Path, tmp_path: Path) -> None:
    catalog = Catalog.load(run / "catalog")
    again = stages.export(
        catalog, sid=run / "sid", model=run / "model", out=tmp_path / "bundle", recipe=pipeline.RECIPE
    )
    assert again.digest == open_artifact(run / "bundle").digest
    weights = again.path / "model" / "model.safetensors"
    body = bytearray(weights.read_bytes())
    body[len(body) // 2] ^= 1
    weights.write_bytes(body)
    with pytest.raises(ArtifactError, match="damaged"):
        Recommender.load(again.path)


def test_the_bundle_holds_no_history(run: Path) -> None:
    files = open_artifact(run / "bundle").manifest.files
    assert not [name for name in files if "event" in name or "user" in name]


def test_a_model_of_other_sids_is_refused(run: Path, tmp_path: Path) -> None:
    catalog = Catalog.load(run / "catalog")
    import dataclasses

    other = dataclasses.replace(pipeline.RECIPE.sid, seed=7)
    build_sids(catalog, Vectors.load(run / "vectors"), out=tmp_path / "sid", config=other)
    with pytest.raises(ArtifactError, match="another SID table"):
        stages.export(catalog, sid=tmp_path / "sid", model=run / "model", out=tmp_path / "b", recipe=pipeline.RECIPE)
    assert not (tmp_path / "b").exists()


def test_a_bundle_of_another_catalog_is_not_evaluated(run: Path, shop: Recommender) -> None:
    catalog = Catalog.load(run / "catalog")
    import pyarrow as pa

    from genrecall.catalog.items import Items

    fewer = Catalog(items=Items(table=catalog.items.table.slice(1)), events=catalog.events)
    assert isinstance(catalog.items.table, pa.Table)
    with pytest.raises(ArtifactError, match="another catalog"):
        stages.evaluate_bundle(shop, fewer)


def test_other_events_are_neither_exported_nor_evaluated(run: Path, shop: Recommender, tmp_path: Path) -> None:
    from tests import synthetic

    from genrecall.catalog.store import import_catalog

    source = synthetic.write(tmp_path / "source", users=60, items=40, events=8, seed=5)
    files = {name: source / f"{name}.parquet" for name in ("items", "events", "users")}
    other = import_catalog(files, tmp_path / "catalog")
    assert other.items.ids == shop.items.ids
    with pytest.raises(ArtifactError, match="another catalog"):
        stages.evaluate_bundle(shop, other)
    with pytest.raises(ArtifactError, match="another catalog"):
        stages.export(other, sid=run / "sid", model=run / "model", out=tmp_path / "bundle", recipe=pipeline.RECIPE)


def test_appended_items_can_be_shipped_and_recommended(run: Path, shop: Recommender, tmp_path: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tests import synthetic

    from genrecall.catalog.store import import_catalog
    from genrecall.sid.append import append_sids

    tables = synthetic.tables(users=60, items=40, events=8)
    more = pa.table({"item_id": ["i40", "i41"], "title": ["red candle no 40", "blue lamp no 41"]})
    files = {name: tmp_path / f"{name}.parquet" for name in ("items", "events", "users")}
    for name, file in files.items():
        pq.write_table(pa.concat_tables([tables["items"], more]) if name == "items" else tables[name], file)
    catalog = import_catalog(files, tmp_path / "catalog")
    known = Vectors.load(run / "vectors").matrix
    matrix = np.concatenate([known, known[:2] + 0.01])
    table = append_sids(run / "sid", catalog.items.ids, matrix, out=tmp_path / "sid")
    np.testing.assert_array_equal(table.sids[:40], shop.table.sids)
    bundle = stages.export(
        catalog, sid=tmp_path / "sid", model=run / "model", out=tmp_path / "bundle", recipe=pipeline.RECIPE
    )
    grown = Recommender.load(bundle.path, device="cpu")
    found = grown.recommend(["i0"], k=41)
    assert {"i40", "i41"} <= {item.item_id for item in found.items}


def test_a_copied_bundle_works_elsewhere(run: Path, shop: Recommender, tmp_path: Path) -> None:
    shutil.copytree(run / "bundle", tmp_path / "elsewhere")
    moved = Recommender.load(tmp_path / "elsewhere", device="cpu")
    assert moved.digest == shop.digest
    assert moved.recommend(["i1"], k=4).items == shop.recommend(["i1"], k=4).items
