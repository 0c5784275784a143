"""From a catalog's vectors to its SID artifact.

The artifact (kind "sid") holds the table, the fitted quantiser with everything that feeds it, the codes before
collisions were resolved, and the quality report. ``append`` adds items to it later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from genrecall import artifacts
from genrecall.catalog.histories import Histories
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError, ConfigError
from genrecall.sid import collisions, quality, registry
from genrecall.sid.collaborative import CollaborativeConfig, collaborative_vectors
from genrecall.sid.fusion import Fusion
from genrecall.sid.quantizer import Quantizer
from genrecall.sid.rq_kmeans import RqKMeansConfig
from genrecall.sid.rq_vae import RqVaeConfig
from genrecall.sid.space import SidSpace
from genrecall.sid.store import KIND, write_sids
from genrecall.sid.table import SidTable
from genrecall.telemetry import log, progress


class ItemVectors(Protocol):
    """The part of ``text.vectors.Vectors`` that is read (text is a sibling layer)."""

    @property
    def item_ids(self) -> list[str]: ...  # noqa: D102
    @property
    def matrix(self) -> np.ndarray: ...  # noqa: D102
    @property
    def identity(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class SidConfig:
    """How SIDs are made.

    Attributes:
        levels, codes: L and C.
        quantizer: "rq_vae" or "rq_kmeans"; only the chosen one's settings count.
        collisions: "reassign", "sinkhorn", "extra_level" or "keep"; see ``collisions``.
        collaborative_weight: share of the squared distances that training behaviour decides, 0 (text alone) to 1.
        collaborative: settings of the behaviour vectors.
        seed: of everything random.
    """

    levels: int = 4
    codes: int = 256
    quantizer: Literal["rq_vae", "rq_kmeans"] = "rq_vae"
    rq_vae: RqVaeConfig = field(default_factory=RqVaeConfig)
    rq_kmeans: RqKMeansConfig = field(default_factory=RqKMeansConfig)
    collisions: collisions.Rule = "reassign"
    collaborative_weight: float = 0.0
    collaborative: CollaborativeConfig = field(default_factory=CollaborativeConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        registry.quantizer_class(self.quantizer)
        SidSpace.uniform(self.levels, self.codes)
        if self.collisions not in collisions.RULES:
            allowed = ", ".join(collisions.RULES)
            raise ConfigError(
                "this rule for collisions is unknown", seen=self.collisions, allowed=allowed, fix="choose one"
            )
        if not 0 <= self.collaborative_weight <= 1:
            raise ConfigError(
                "the collaborative weight is a share",
                seen=self.collaborative_weight, allowed="0 (text alone) to 1 (behaviour alone)", fix="try 0.5",
            )  # fmt: skip

    def resolved(self, identity: dict[str, Any]) -> dict[str, Any]:
        """What the artifact records, apart from the space that came out."""
        own = asdict(self.rq_vae if self.quantizer == "rq_vae" else self.rq_kmeans)
        own.pop("device")  # where it ran is no part of what it is
        if self.collaborative_weight:
            own["normalise"] = "scalar"
        return {
            "levels": self.levels,
            "codes": self.codes,
            "quantizer": {"name": self.quantizer, **own},
            "collisions": self.collisions,
            "collaborative_weight": self.collaborative_weight,
            "collaborative": asdict(self.collaborative) if self.collaborative_weight else None,
            "seed": self.seed,
            "encoder": identity,
        }


def is_built(
    out: Path | str, config: SidConfig, catalog: Catalog, vectors: ItemVectors, histories: Histories | None
) -> bool:
    """Whether ``out`` already holds what ``build_sids`` would write."""
    try:
        space = artifacts.open_artifact(out, kind=KIND, verify=False).manifest.config["space"]
    except ArtifactError:
        return False
    expected = {"space": space, **config.resolved(vectors.identity)}
    return artifacts.is_current(out, kind=KIND, config=expected, parents=_parents(config, catalog, vectors, histories))


def build_sids(
    catalog: Catalog,
    vectors: ItemVectors,
    *,
    out: Path | str,
    config: SidConfig | None = None,
    histories: Histories | None = None,
) -> SidTable:
    """Fit a quantiser on the catalog's vectors, give every item its SID, and write the artifact.

    Args:
        catalog: whose items are named, in its order.
        vectors: one row an item, same ids in the same order.
        out: the artifact directory.
        config: defaults are 4 x 256, RQ-VAE, reassignment.
        histories: *training* events; needed when ``collaborative_weight`` is above 0.

    Raises:
        CapacityError: L and C cannot hold the catalog.
        ArtifactError: the vectors belong to another catalog.
    """
    config = config or SidConfig()
    _require_same_items(catalog.items.ids, vectors.item_ids)
    if config.collisions in ("reassign", "sinkhorn"):
        SidSpace.uniform(config.levels, config.codes).require_capacity(len(vectors.item_ids))
    inputs, fusion = _inputs(vectors.matrix, config, histories)
    quantizer = _fit(inputs, config, fused=fusion is not None)
    codes = quantizer.encode(inputs)
    with progress("resolving collisions") as bar:
        sids, space = collisions.resolve(codes, quantizer, inputs, config.collisions, bar=bar)
    found = quality.report(
        codes=codes, sids=sids, space=space, quantizer=quantizer, vectors=inputs, titles=catalog.items.titles
    )
    for line in found["alarms"]:
        log(f"alarm: {line}")
    table = SidTable(space=space, item_ids=vectors.item_ids, sids=sids)
    return write_sids(
        out, table, codes=codes, quantizer=quantizer, fusion=fusion, found=found,
        config={"space": list(space.codes), **config.resolved(vectors.identity)},
        parents=_parents(config, catalog, vectors, histories),
    )  # fmt: skip


def _inputs(matrix: np.ndarray, config: SidConfig, histories: Histories | None) -> tuple[np.ndarray, Fusion | None]:
    if not config.collaborative_weight:
        return matrix, None
    if histories is None:
        raise ConfigError(
            "collaborative SIDs need training events",
            seen=f"a collaborative weight of {config.collaborative_weight} and no events",
            allowed="a catalog with events, or weight 0",
            fix="import events with the catalog, or leave out --collaborative-weight",
        )
    behaviour = collaborative_vectors(histories, len(matrix), config=config.collaborative, seed=config.seed)
    fusion = Fusion.fit(matrix, behaviour, config.collaborative_weight)
    return fusion(matrix, behaviour), fusion


def _fit(inputs: np.ndarray, config: SidConfig, *, fused: bool) -> Quantizer:
    # Fused blocks were weighted on purpose: scaling each dimension to variance 1 would undo that.
    quantizer: Quantizer
    if config.quantizer == "rq_vae":
        vae = replace(config.rq_vae, normalise="scalar") if fused else config.rq_vae
        quantizer = registry.RqVae(levels=config.levels, codes=config.codes, config=vae)
        total = vae.steps(len(inputs))
    else:
        kmeans = replace(config.rq_kmeans, normalise="scalar") if fused else config.rq_kmeans
        quantizer = registry.RqKMeans(levels=config.levels, codes=config.codes, config=kmeans)
        total = config.levels
    with progress(f"fitting {config.quantizer} {config.levels} x {config.codes}", total) as bar:
        return quantizer.fit(inputs, seed=config.seed, bar=bar)


def _parents(config: SidConfig, catalog: Catalog, vectors: ItemVectors, histories: Histories | None) -> dict[str, str]:
    parents = {"catalog": catalog.digest, "vectors": vectors.digest}
    if config.collaborative_weight and histories is not None:
        parents["histories"] = histories.digest
    return parents


def _require_same_items(ids: Sequence[str], vector_ids: Sequence[str]) -> None:
    if list(ids) != list(vector_ids):
        raise ArtifactError(
            "the vectors belong to another catalog",
            seen=f"{len(vector_ids)} vectors for {len(ids)} items, {len(set(ids) - set(vector_ids))} items without one",
            allowed="one vector an item, in the catalog's order",
            fix="run `genrecall embed` on this catalog",
        )
