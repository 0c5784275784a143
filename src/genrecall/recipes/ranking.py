"""From a bundle to a ranker: lists of validation cases, a warm-up on training events, the fit, and the judging.

Targets of the lists are validation targets, which no channel and no generator was trained on; negatives are the same
request's other candidates. None of our data sets has exposures, so this is the sampling: AUC and LogLoss compare
rankers within one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from genrecall.artifacts import Artifact, is_current, open_artifact, write_artifact
from genrecall.errors import ConfigError
from genrecall.rank.columns import item_columns
from genrecall.rank.features import Features
from genrecall.rank.fit import Data, FitConfig, fit_ranker
from genrecall.rank.lists import ListReader
from genrecall.rank.model import NetworkConfig
from genrecall.rank.recalled import SID_SCORE
from genrecall.rank.schema import Schema
from genrecall.recipes.rank_lists import Shop, sampled, write_lists, write_warm_lists
from genrecall.recipes.rank_relations import affinities_of, recent_counts
from genrecall.recipes.rank_schema import default_schema, vocabularies_of
from genrecall.text.vectors import Vectors

KIND = "ranker"
Blocks = Literal["joint", "sparse", "dense", "joint+recall", "sparse+recall", "dense+recall"]
BLOCKS: tuple[Blocks, ...] = ("joint+recall", "joint", "sparse", "dense", "sparse+recall", "dense+recall")


@dataclass(frozen=True, kw_only=True)
class RankRecipe:
    """Settings of a ranker.

    Attributes:
        blocks: what it reads: sparse features, the dense language model, both (joint), each with or without recall's
            own numbers.
        candidates: of a list.
        cases: validation cases that lists are made of, at most.
        warm_events: training events of the warm-up, at most; 0 leaves it out.
        warm_negatives: of each.
        vectors: width that the items' text vectors are brought to by principal components.
        network, fit: see there.
    """

    blocks: Blocks = "joint+recall"
    candidates: int = 100
    cases: int = 20_000
    warm_events: int = 100_000
    warm_negatives: int = 30
    vectors: int = 64
    network: NetworkConfig = field(default_factory=NetworkConfig)
    fit: FitConfig = field(default_factory=FitConfig)


def train_ranker(
    shop: Shop, vectors: Vectors | None, recipe: RankRecipe, out: Path, work: Path, *, force: bool = False
) -> Artifact:
    """Fit a ranker and write it as an artifact; one that is current is kept, and so are lists in ``work``."""
    config = {"recipe": asdict(recipe), "fusion": asdict(shop.fusion.config)}
    parents = dict(shop.parents)
    if vectors is not None:
        parents["vectors"] = vectors.digest
    if not force and is_current(out, kind=KIND, config=config, parents=parents):
        return open_artifact(out, kind=KIND)
    lists, warm = made_lists(shop, recipe, work)
    reader = ListReader(lists)
    state = next(reader.batches(1)).asked.state
    train, many = shop.split.train, len(shop.catalog.items)
    relations, affinities = affinities_of(train, many) if "dense" not in recipe.blocks else ({}, [])
    whole = default_schema(shop.catalog, train, affinities)
    schema = block_schema(whole, reader.evidence, 0 if state is None else state.shape[1], vectors, recipe)
    items = item_columns(shop.catalog.items, schema, train.item_counts(many), recent_counts(train, many))
    vocabularies = vocabularies_of(schema, items, shop.catalog)
    data = Data(
        features=Features(schema, items, vocabularies, relations),
        vocabularies=vocabularies,
        vectors=None if vectors is None or not schema.vectors else principal(vectors.matrix, schema.vectors),
        lists=reader,
        warm=ListReader(warm) if recipe.warm_events else None,
    )
    ranker, report = fit_ranker(data, recipe.network, recipe.fit)
    with write_artifact(out, kind=KIND, config=config, parents=parents) as writer:
        ranker.save(writer.path, half=recipe.fit.half)
        writer.facts |= {"report": report}
    return open_artifact(out, kind=KIND)


def made_lists(shop: Shop, recipe: RankRecipe, work: Path) -> tuple[Path, Path]:
    """Lists of validation cases and of training events, made once for one bundle, fusion and recipe."""
    told = {
        "parts": dict(shop.parents), "fusion": asdict(shop.fusion.config), "candidates": recipe.candidates,
        "cases": recipe.cases, "warm": [recipe.warm_events, recipe.warm_negatives],
    }  # fmt: skip
    if not is_current(work, kind="rank-lists", config=told):
        cases = sampled(shop.split.valid, recipe.cases)
        if len(cases) == 0:
            raise ConfigError(
                "there are no validation cases to rank",
                seen="a split without any",
                allowed="a split that holds validation events out",
                fix="use another --split, or users with three or more events",
            )
        with write_artifact(work, kind="rank-lists", config=told) as writer:
            write_lists(shop, cases, writer.path / "lists.parquet", k=recipe.candidates)
            write_warm_lists(
                shop, writer.path / "warm.parquet", most=recipe.warm_events, negatives=recipe.warm_negatives
            )
    stored = open_artifact(work, kind="rank-lists")
    return stored.file("lists.parquet"), stored.file("warm.parquet")


def block_schema(
    schema: Schema, evidence: Sequence[str], state: int, vectors: Vectors | None, recipe: RankRecipe
) -> Schema:
    """The whole schema, less what the recipe's blocks leave out."""
    block, _, recall = recipe.blocks.partition("+")
    said = [name for name in evidence if recall or name == SID_SCORE]
    if block == "sparse":
        said = [name for name in said if name != SID_SCORE]
    dense = block != "sparse"
    return replace(
        schema,
        columns=schema.columns if block != "dense" else (),
        features=schema.features if block != "dense" else (),
        numbers=schema.numbers if block != "dense" else (),
        evidence=tuple(said),
        state=state if dense else 0,
        vectors=min(recipe.vectors, vectors.matrix.shape[1]) if dense and vectors is not None else 0,
    )


def principal(matrix: np.ndarray, width: int) -> np.ndarray:
    """float32 (I, width) principal components of vectors, each of unit variance."""
    centred = matrix.astype(np.float64) - matrix.mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    kept = left[:, :width] * (size[:width] > 1e-6)
    return (kept * np.sqrt(len(matrix))).astype(np.float32)
