"""From a catalog's vectors to its SID artifact.

The artifact (kind "sid") holds the table, the fitted quantiser with everything that feeds it, the codes before
collisions were resolved, and the quality report. ``append`` adds items to it later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from genrecall import artifacts
from genrecall.catalog.histories import Histories
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError, ConfigError
from genrecall.processes import gathered, is_main, share, wait, world
from genrecall.sid import collisions, quality
from genrecall.sid.behaviour import Behaviour
from genrecall.sid.config import SidConfig
from genrecall.sid.fusion import Fusion
from genrecall.sid.quantizer import Quantizer
from genrecall.sid.rq_vae import RqVae
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantized:
    """A quantiser fitted on a catalog, and what it makes of the items.

    Attributes:
        quantizer: fitted.
        fusion: what joins text and behaviour before it; None for text alone.
        inputs: float (I, D') what it was fed.
        codes: int32 (I, L), several items may share them.
    """

    quantizer: Quantizer
    fusion: Fusion | None
    inputs: np.ndarray
    codes: np.ndarray


def is_built(
    out: Path | str,
    config: SidConfig,
    catalog: Catalog,
    vectors: ItemVectors,
    histories: Histories | None,
    behaviour: Behaviour | None = None,
) -> bool:
    """Whether ``out`` already holds what ``build_sids`` would write."""
    try:
        space = artifacts.open_artifact(out, kind=KIND, verify=False).manifest.config["space"]
    except ArtifactError:
        return False
    expected = {"space": space, **_resolved(config, vectors, behaviour)}
    parents = _parents(config, catalog, vectors, histories, behaviour)
    return artifacts.is_current(out, kind=KIND, config=expected, parents=parents)


def build_sids(
    catalog: Catalog,
    vectors: ItemVectors,
    *,
    out: Path | str,
    config: SidConfig | None = None,
    histories: Histories | None = None,
    behaviour: Behaviour | None = None,
) -> SidTable:
    """Fit a quantiser on the catalog's vectors, give every item its SID, and write the artifact.

    Under torchrun the processes fit and encode together, and the first one writes.

    Args:
        catalog: whose items are named, in its order.
        vectors: one row an item, same ids in the same order.
        out: the artifact directory.
        config: defaults are 4 x 256, RQ-VAE, reassignment.
        histories: *training* events; needed where behaviour has a say, unless ``behaviour`` is given.
        behaviour: collaborative vectors to use instead of our own.

    Raises:
        CapacityError: L and C cannot hold the catalog.
        ArtifactError: the vectors belong to another catalog.
    """
    config = config or SidConfig()
    _require_same_items(catalog.items.ids, vectors.item_ids)
    if behaviour is not None:
        behaviour.require(items=len(vectors.item_ids), catalog=catalog.digest, histories=histories)
    made = quantize(vectors.matrix, config, behaviour_for(config, len(vectors.item_ids), histories, behaviour))
    written = None
    if is_main():
        table, found = resolve(made, config, vectors.item_ids, titles=catalog.items.titles)
        for line in found["alarms"]:
            log(f"alarm: {line}")
        written = write_sids(
            out, table, codes=made.codes, quantizer=made.quantizer, fusion=made.fusion, found=found,
            config={"space": list(table.space.codes), **_resolved(config, vectors, behaviour)},
            parents=_parents(config, catalog, vectors, histories, behaviour),
        )  # fmt: skip
    wait()
    return written or SidTable.load(out)


def behaviour_for(
    config: SidConfig, items: int, histories: Histories | None, given: Behaviour | None = None
) -> Behaviour | None:
    """The collaborative vectors that a configuration asks for: those given, or our own; None if it asks for none."""
    if not config.needs_behaviour:
        return None
    if given is not None:
        return given
    if histories is None:
        asked = f"alignment {config.rq_vae.alignment_weight}" if config.aligned else "no events"
        raise ConfigError(
            "collaborative SIDs need training events",
            seen=f"a collaborative weight of {config.collaborative_weight} and {asked}",
            allowed="a catalog with events, or weights of 0",
            fix="import events with the catalog, or leave out --collaborative-weight and --alignment-weight",
        )
    return Behaviour.factorised(histories, items, config=config.collaborative, seed=config.seed)


def quantize(matrix: np.ndarray, config: SidConfig, behaviour: Behaviour | None = None) -> Quantized:
    """Fit on text vectors (I, D), joined or aligned with ``behaviour`` as configured, and encode all items.

    Under torchrun all processes must call it.
    """
    if len(matrix) < world():
        raise ConfigError(
            "there are fewer items than processes",
            seen=f"{len(matrix)} items, {world()} processes",
            allowed="an item a process or more",
            fix="start fewer processes",
        )
    if config.collisions in ("reassign", "sinkhorn"):
        SidSpace.uniform(config.levels, config.codes).require_capacity(len(matrix))
    fusion, inputs = None, matrix
    if config.collaborative_weight:
        assert behaviour is not None
        fusion = Fusion.fit(matrix, behaviour.matrix, config.collaborative_weight)
        inputs = fusion(matrix, behaviour.matrix)
    quantizer = config.make()
    label = f"fitting {config.quantizer} {config.levels} x {config.codes}"
    with progress(label, config.steps(len(inputs))) as bar:
        if config.aligned:
            assert isinstance(quantizer, RqVae)
            assert behaviour is not None
            quantizer.fit(inputs, seed=config.seed, bar=bar, behaviour=behaviour.matrix)
        else:
            quantizer.fit(inputs, seed=config.seed, bar=bar)
    codes = gathered(quantizer.encode(inputs[share()]), len(inputs))
    return Quantized(quantizer=quantizer, fusion=fusion, inputs=inputs, codes=codes)


def resolve(
    made: Quantized, config: SidConfig, item_ids: Sequence[str], *, titles: Sequence[str] | None = None
) -> tuple[SidTable, dict[str, Any]]:
    """SIDs by the configured rule for collisions, and their quality report."""
    with progress("resolving collisions") as bar:
        sids, space = collisions.resolve(made.codes, made.quantizer, made.inputs, config.collisions, bar=bar)
    with progress("measuring the SIDs", len(sids)) as bar:
        found = quality.report(
            codes=made.codes, sids=sids, space=space, quantizer=made.quantizer, vectors=made.inputs, titles=titles,
            bar=bar,
        )  # fmt: skip
    return SidTable(space=space, item_ids=list(item_ids), sids=sids), found


def _resolved(config: SidConfig, vectors: ItemVectors, behaviour: Behaviour | None) -> dict[str, Any]:
    given = None if behaviour is None else {**behaviour.identity, "digest": behaviour.digest}
    return config.resolved(vectors.identity, given)


def _parents(
    config: SidConfig,
    catalog: Catalog,
    vectors: ItemVectors,
    histories: Histories | None,
    behaviour: Behaviour | None,
) -> dict[str, str]:
    parents = {"catalog": catalog.digest, "vectors": vectors.digest}
    if config.needs_behaviour:
        fitted_on = (behaviour.histories if behaviour is not None else "") or (histories.digest if histories else "")
        parents |= {"histories": fitted_on} if fitted_on else {}
    return parents


def _require_same_items(ids: Sequence[str], vector_ids: Sequence[str]) -> None:
    if list(ids) != list(vector_ids):
        raise ArtifactError(
            "the vectors belong to another catalog",
            seen=f"{len(vector_ids)} vectors for {len(ids)} items, {len(set(ids) - set(vector_ids))} items without one",
            allowed="one vector an item, in the catalog's order",
            fix="run `genrecall embed` on this catalog",
        )
