"""How a bundle's channels are joined best, and what each of them is worth: fitted and measured on validation cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.artifacts import Artifact
from genrecall.bundle.fused import with_fusion
from genrecall.bundle.load import Recommender
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError, ConfigError
from genrecall.eval.harness import queries_of
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.fusion import FusionFit, contributions, fit_on_candidates, recency
from genrecall.recipes.recipe import SplitConfig
from genrecall.telemetry import progress

_LEFT_OUT = ("popularity", "popularity_segment", "lexical", "dense")
_BATCH = 64
K = 10


@dataclass(frozen=True, kw_only=True)
class Fused:
    """What came of it.

    Attributes:
        bundle: with the fusion.
        report: ``method``, figures of everything that was tried, and ``contributions`` by channel.
    """

    bundle: Artifact
    report: dict[str, Any]


def fuse(
    bundle: Path,
    catalog: Catalog,
    out: Path,
    *,
    channels: Sequence[str] = (),
    cases: int = 2000,
    config: FusionFit | None = None,
    device: str = "auto",
) -> Fused:
    """Fit a fusion on the lists that a bundle's channels give for validation cases, and write the bundle with it.

    Args:
        bundle: directory.
        catalog: that it was made from.
        out: directory of the new bundle; may be the same.
        channels: that are fused; none: the generative one and all that read histories.
        cases: so many validation cases are asked, drawn by a fixed seed.
        config: methods that are tried.
        device: of the generative channel.

    Raises:
        ArtifactError: the bundle is of another catalog.
        ConfigError: no such channel, or too few cases.
    """
    shop, config = Recommender.load(bundle, device=device), config or FusionFit()
    if shop.catalog_digest != catalog.digest:
        raise ArtifactError(
            "the bundle was made from another catalog",
            seen=f"bundle of {shop.catalog_digest}, catalog {catalog.digest}",
            allowed="the bundle's own catalog",
            fix="give the --catalog that the bundle was exported from",
        )
    known: dict[str, Channel] = {shop.generative.name: shop.generative, **shop.channels}
    names = list(channels) or [name for name in known if name not in _LEFT_OUT]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            "no such channel in the bundle", seen=unknown[0], allowed=", ".join(known), fix="correct --channels"
        )
    rule = SplitConfig(**shop.split)
    split = rule.divide(catalog)
    asked = split.valid
    if len(asked) > cases:
        asked = asked.subset(np.sort(np.random.default_rng(0).permutation(len(asked))[:cases]))
    queries = queries_of(asked, rule.protocol(split), catalog.profile_of)
    lists = {name: _lists(known[name], queries, min(config.top, len(catalog.items))) for name in names}
    counts = split.train.item_counts(len(catalog.items))
    lengths = np.array([len(query.history) for query in queries])
    fusion = fit_on_candidates(
        lists,
        asked.targets,
        counts=counts,
        lengths=lengths,
        users=asked.users,
        facts=recency(split.train, len(catalog.items)),
        config=config,
    )
    parts = contributions(fusion, lists, asked.targets, lengths=lengths, k=K)
    report = {
        **fusion.report,
        "k": K,
        "contributions": {name: asdict(parts[name]) for name in fusion.config.channels},
    }
    return Fused(bundle=with_fusion(bundle, fusion, out, report=report), report=report)


def _lists(channel: Channel, queries: Sequence[Query], depth: int) -> Candidates:
    found = []
    with progress(f"asking {channel.name}", len(queries)) as bar:
        for begin in range(0, len(queries), _BATCH):
            found.append(channel.recall(queries[begin : begin + _BATCH], depth))
            bar.advance(len(found[-1].items))
    return Candidates(
        items=np.concatenate([one.items for one in found]), scores=np.concatenate([one.scores for one in found])
    )
