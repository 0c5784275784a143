"""A whole pipeline at toy size, without a text encoder: built once a session, shared by tests that need a bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from genrecall.catalog.store import Catalog, import_catalog
from genrecall.model.config import ModelConfig, ModelSize
from genrecall.prompt.history import HistoryConfig
from genrecall.recall.generative import GenerativeConfig
from genrecall.recipes import stages
from genrecall.recipes.recipe import Recipe
from genrecall.sid.build import SidConfig, build_sids
from genrecall.sid.rq_kmeans import RqKMeansConfig
from genrecall.text.vectors import write_vectors
from genrecall.train.config import TrainConfig
from tests import synthetic

RECIPE = Recipe(
    name="test",
    sid=SidConfig(levels=2, codes=8, quantizer="rq_kmeans", rq_kmeans=RqKMeansConfig(steps=5)),
    model=ModelConfig(explicit=ModelSize(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=64), window=64),
    history=HistoryConfig(max_items=12),
    train=TrainConfig(epochs=3, batch_tokens=512, learning_rate=1e-2, dropout=0.0, checkpoint_every_s=0),
    validation_cases=20,
    generative=GenerativeConfig(beam=12),
)


def vectors(catalog: Catalog, out: Path) -> None:
    """Vectors in which items of one theme lie together."""
    themes = np.random.default_rng(0).normal(size=(len(synthetic.THEMES), 16))
    noise = np.random.default_rng(1).normal(size=(len(catalog.items), 16)) * 0.3
    matrix = themes[np.arange(len(catalog.items)) % len(themes)] + noise
    identity = {"name": "test", "dim": 16}
    write_vectors(
        out,
        catalog.items.ids,
        matrix.astype(np.float32),
        config={"encoder": identity},
        parents={"catalog": catalog.digest},
        facts={},
    )


def build(run: Path, recipe: Recipe = RECIPE) -> Path:
    """catalog/, vectors/, sid/, model/ and bundle/ in ``run``."""
    source = synthetic.write(run / "source", users=60, items=40, events=8)
    files = {name: source / f"{name}.parquet" for name in ("items", "events", "users")}
    catalog = import_catalog(files, run / "catalog")
    vectors(catalog, run / "vectors")
    from genrecall.text.vectors import Vectors

    build_sids(catalog, Vectors.load(run / "vectors"), out=run / "sid", config=recipe.sid)
    split = recipe.split.divide(catalog)
    stages.train_model(catalog, split, sid=run / "sid", out=run / "model", recipe=recipe)
    stages.export(catalog, sid=run / "sid", model=run / "model", out=run / "bundle", recipe=recipe)
    return run


def retrained(run: Path, out: Path, seed: int) -> None:
    """Another model on the same SIDs."""
    catalog = Catalog.load(run / "catalog")
    recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, seed=seed, epochs=0.5))
    stages.train_model(catalog, recipe.split.divide(catalog), sid=run / "sid", out=out, recipe=recipe)
