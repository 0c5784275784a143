"""The quality gate on a bundle's own validation cases; see ``bench.quality``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genrecall.bench.quality import QualityBench, measure
from genrecall.bundle.load import Recommender
from genrecall.catalog.store import Catalog
from genrecall.eval.harness import queries_of
from genrecall.recipes.recipe import SplitConfig


def quality_gate(bench: QualityBench, catalog: Path, *, cases: int, seed: int = 0) -> dict[str, Any]:
    """Ask so many cases, drawn at random, of the bundle's own catalog; returns what ``measure`` does."""
    shop, loaded = Recommender.load(bench.bundle, device="cpu", dtype="float32"), Catalog.load(catalog)
    config = SplitConfig(**shop.split)
    split = config.divide(loaded)
    drawn = np.random.default_rng(seed).permutation(len(split.valid))[:cases]
    asked = split.valid.subset(np.sort(drawn))
    queries = queries_of(asked, config.protocol(split), loaded.profile_of)
    return measure(bench, shop, queries, asked.targets)
