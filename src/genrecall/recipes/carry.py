"""What a refreshed bundle keeps of the one in use beside its models: how lists are joined, and how they are ordered.

The fusion is taken over as it is: what it learnt are scales and weights of channels, and channels are fitted by the
same settings; only what it knows of items (counts, which break ties, and their recency) is told by the new events. The
ranker reads the states and scores of a model that has gone on, so it is fitted again by its own recipe, on lists of the
new bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.artifacts import Artifact, open_artifact
from genrecall.bundle.channels import load_fusion
from genrecall.bundle.fused import with_fusion
from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Cases
from genrecall.catalog.store import Catalog
from genrecall.rank.fit import FitConfig, held_out
from genrecall.rank.model import NetworkConfig
from genrecall.recipes.rank_lists import Shop
from genrecall.recipes.ranking import RankRecipe, train_ranker
from genrecall.text.vectors import Vectors


def carried_fusion(active: Artifact, bundle: Artifact, catalog: Catalog, train: Histories) -> Artifact:
    """``bundle`` with the fusion of the one in use; as it is where that has none.

    Args:
        active: the bundle in use.
        bundle: the new one, replaced.
        catalog: of the new one.
        train: its training events.
    """
    fusion = load_fusion(active.path / "channels")
    if fusion is None:
        return bundle
    report = {**active.manifest.facts.get("fusion", {}), "taken over from": active.digest}
    return with_fusion(bundle.path, fusion.after(train, len(catalog.items)), bundle.path, report=report)


def refitted_ranker(
    used: Path, bundle: Path, catalog: Catalog, vectors: Vectors | None, out: Path, *, device: str
) -> Artifact:
    """A ranker like the one in use, for the new bundle.

    Args:
        used: ``ranker`` artifact in use.
        bundle: the new one, with its fusion and without a ranker.
        catalog, vectors: that it was made of.
        out: run directory; gets ``ranker`` and ``rank-lists``.
        device: of generator and fit.

    Raises:
        ConfigError: no validation case is left to learn from.
    """
    recipe = _recipe(open_artifact(used, kind="ranker").manifest.config["recipe"], device)
    shop = Shop.open(bundle, catalog, device=device)
    return train_ranker(shop, vectors, recipe, out / "ranker", out / "rank-lists")


def unseen(cases: Cases, ranker: Path) -> Cases:
    """The cases of users that a ranker's fit, and that of the one before it, held out: what may judge both."""
    fit = FitConfig(**open_artifact(ranker, kind="ranker").manifest.config["recipe"]["fit"])
    return cases.subset(np.flatnonzero(held_out(cases.users.astype(np.int64), fit)))


def _recipe(told: Mapping[str, Any], device: str) -> RankRecipe:
    nested = {"network": NetworkConfig(**told["network"]), "fit": FitConfig(**{**told["fit"], "device": device})}
    return RankRecipe(**{**told, **nested})
