"""One model that answers histories and searches, at toy size."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import pipeline, synthetic
from tests.recipes.test_run import toy
from typer.testing import CliRunner

from genrecall.bundle.export import export_bundle
from genrecall.bundle.load import Recommender
from genrecall.catalog.store import Catalog, import_catalog
from genrecall.cli.main import app
from genrecall.engine.config import EngineConfig
from genrecall.recall.channel import Query
from genrecall.recall.generative import GenerativeChannel, GenerativeConfig
from genrecall.recall.generator import open_generator
from genrecall.recipes import generators
from genrecall.recipes.search import (
    judge_search,
    load_search,
    prepare_search,
    search_baselines,
    search_parts,
)
from genrecall.recipes.study import suited_to
from genrecall.sid.table import SidTable
from genrecall.text.vectors import Vectors
from genrecall.text.words import words
from genrecall.train.queries import HeldOut
from genrecall.train.search import SearchConfig


def encode(texts: Sequence[str]) -> np.ndarray:
    """A word lies where its theme lies."""
    told = np.random.default_rng(0).normal(size=(len(synthetic.THEMES), 16))
    rows = [[told[synthetic.THEMES.index(w)] for w in words(text) if w in synthetic.THEMES] for text in texts]
    return np.array([np.sum(row, axis=0) if row else np.full(16, 1e-3) for row in rows], np.float32)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("search")
    source = synthetic.write(directory / "source", users=60, items=40, events=8)
    themes = [f"{theme}s please" for theme in synthetic.THEMES]
    queries = pa.table({"query_id": [f"q{n}" for n in range(len(themes))], "query": themes})
    pairs = [(f"q{item % len(themes)}", f"i{item}") for item in range(40)]
    pq.write_table(queries, source / "queries.parquet")
    pq.write_table(pa.table({"query_id": [p[0] for p in pairs], "item_id": [p[1] for p in pairs]}),
                   source / "query_items.parquet")  # fmt: skip
    names = ("items", "events", "users", "queries", "query_items")
    files = {name: source / f"{name}.parquet" for name in names}
    pipeline.vectors(import_catalog(files, directory / "catalog"), directory / "vectors")
    return directory


def prepared(out: Path, asked: list[int] | None = None):
    catalog, vectors = Catalog.load(out / "catalog"), Vectors.load(out / "vectors")
    split = suited_to(catalog, small=True).split.divide(catalog)

    def counting(texts: Sequence[str]) -> np.ndarray:
        if asked is not None:
            asked.append(len(texts))
        return encode(texts)

    config = SearchConfig(share=0.5, per_item=24)
    return catalog, vectors, split, prepare_search(catalog, vectors, split, counting, out / "searches", config=config)


def test_searches_are_prepared_once_and_leave_evaluation_alone(out: Path) -> None:
    asked: list[int] = []
    *_, data = prepared(out, asked)
    assert asked
    assert prepared(out, again := [])[-1].digest == data.digest
    assert not again
    assert load_search(out / "searches").searches.digest == data.searches.digest
    held = HeldOut.of(Catalog.load(out / "catalog"))
    assert len(data.searches) > 500
    assert not any(held.holds(text) for text in data.searches.texts)
    assert data.word_vectors.shape == (1 + len(data.words.words), 16)
    assert not data.word_vectors[0].any()
    assert (data.soft.weights.sum(1) > 0.7).mean() > 0.9
    assert "please" not in data.words.words


def test_text_channels_answer_evaluation_queries_without_an_encoder(out: Path) -> None:
    catalog, vectors, split, data = prepared(out)
    valid, test = search_parts(catalog)
    assert (valid.part, test.part) == ("validation", "test")
    evaluation = judge_search(search_baselines(vectors, data, split), valid, split, len(catalog.items), depth=50)
    assert evaluation.results["lexical"].metrics["recall@10"].mean == 1.0
    assert evaluation.results["lexical"].metrics["fill@10"].mean == 0.0  # there are five candles


@pytest.mark.slow
def test_one_model_answers_histories_and_searches(out: Path) -> None:
    catalog, vectors, split, data = prepared(out)
    study = toy(suited_to(catalog, name="toy", small=True))
    study = dataclasses.replace(
        study,
        tables=study.tables[:1],
        teacher=None,
        trunk=dataclasses.replace(study.trunk, width=64, dropout=0.1),
        train=dataclasses.replace(study.train, epochs=30, eval_every=15, learning_rate=3e-3),
    )
    sids = generators.tables(catalog, vectors, split, study, out)
    (model,) = generators.generators(catalog, split, study, sids, None, out, data)
    table = SidTable.load(sids[0])
    engine, prompts = open_generator(model, table, catalog.items.titles, EngineConfig(device="cpu"))
    counts = split.train.item_counts(len(catalog.items))
    channel = GenerativeChannel(engine, prompts, table, counts, GenerativeConfig(beam=40))
    valid, _ = search_parts(catalog)
    evaluation = judge_search([channel], valid, split, len(catalog.items), depth=50)
    # A quarter comes by chance; half of each of these four queries is a word that no title has.
    assert evaluation.results["generative"].metrics["recall@10"].mean > 0.25
    for theme, word in enumerate(synthetic.THEMES):
        found = channel.recall([Query(text=word)], 5).items[0]
        assert (found % len(synthetic.THEMES) == theme).mean() >= 0.8, word
    history = np.array([1, 9, 17], np.int32)
    alone, asked, searched = (
        channel.recall([query], 5).items[0].tolist()
        for query in (
            Query(history=history, exclude=history, profile={"country": "France"}),
            Query(history=history, exclude=history, profile={"country": "France"}, text="teapot"),
            Query(text="teapot"),
        )
    )
    assert 25 in alone  # the lamp after these three, as before
    assert sum(item % 8 == 2 for item in searched) >= 4
    assert sum(item % 8 == 2 for item in asked) >= 3
    export_bundle(catalog, split.train, sid=sids, model=[model], out=out / "bundle")
    shop = Recommender.load(out / "bundle", device="cpu")
    found = shop.recommend(search="red teapots", k=5)
    assert found.channel == "generative"
    assert not found.notes
    assert sum("teapot" in item.title for item in found.items) >= 4
    assert "left out" in shop.recommend(search="?!", k=5).notes[0]
    asked = ["recommend", "--bundle", str(out / "bundle"), "--device", "cpu", "-k", "5", "--json", "--search"]
    answer = json.loads(CliRunner().invoke(app, [*asked, "red teapots"]).stdout)
    assert [item["item_id"] for item in answer["items"]] == [item.item_id for item in found.items]
    assert "cannot read the search" in str(CliRunner().invoke(app, [*asked, "?!"]).exception)
