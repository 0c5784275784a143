"""Gather what answering needs into one directory under one digest; no user's history goes along."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from genrecall.artifacts import Artifact, is_current, open_artifact, write_artifact
from genrecall.bundle import channels as classic
from genrecall.bundle.channels import ClassicChannel, ClassicConfig
from genrecall.bundle.parts import KIND, RANKER, parts_of
from genrecall.catalog.histories import Histories
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError
from genrecall.recall.channel import Query
from genrecall.recall.generative import GenerativeConfig
from genrecall.recall.towers import TowersChannel
from genrecall.sid.table import SidTable
from genrecall.telemetry import log
from genrecall.text.vectors import Vectors

_ASKED = 500


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """What a bundle adds to its parts.

    Attributes:
        generative: settings of the search.
        channels: settings of the classic channels.
        split: the rule under which the model and the channels were fitted; evaluation repeats it.
        remarks: what a reader of a table must know of how the parts were made.
    """

    generative: GenerativeConfig = field(default_factory=GenerativeConfig)
    channels: ClassicConfig = field(default_factory=ClassicConfig)
    split: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def export_bundle(
    catalog: Catalog,
    train: Histories,
    *,
    sid: Path | str | Sequence[Path],
    model: Path | str | Sequence[Path],
    out: Path | str,
    config: BundleConfig | None = None,
    vectors: Vectors | None = None,
    ranker: Path | str | None = None,
    force: bool = False,
) -> Artifact:
    """Write a bundle from a catalog, its SIDs and a model; one that is current is kept.

    Args:
        catalog: its items are shipped, its events are not.
        train: the histories that the classic channels are fitted on.
        sid: ``sid`` artifact, or one for each of several generators.
        model: ``model`` artifact, trained on exactly these SIDs; as many.
        out: directory of the bundle.
        config: settings.
        vectors: of the items' texts, for channels that are trained here and read them; the bundle names them as parent.
        ranker: ``ranker`` artifact that was trained on these parts; None ships none.
        force: write even if ``out`` is current.
    """
    config = config or BundleConfig()
    generators = list(zip(_opened(sid, "sid"), _opened(model, "model"), strict=True))
    tables = [SidTable.load(sids.path) for sids, _ in generators]
    for table, (sids, weights) in zip(tables, generators, strict=True):
        table.require_items(catalog.items.ids)
        _require_lineage(catalog, sids, weights)
    parts = {
        name: part for place, pair in enumerate(generators) for name, part in zip(parts_of(place), pair, strict=True)
    }
    if ranker is not None:
        parts[RANKER] = _opened(ranker, RANKER)[0]
        _require_same_parts(catalog, parts)
    settings = {
        "spaces": [list(table.space.codes) for table in tables],
        "normalise": [weights.manifest.config["normalise"] for _, weights in generators],
        "generative": asdict(config.generative),
        "channels": asdict(config.channels),
        "split": config.split,
        "remarks": list(config.remarks),
    }
    parents = {"catalog": catalog.digest, **{name: part.digest for name, part in parts.items()}}
    if vectors is not None and config.channels.two_tower is not None:
        parents["vectors"] = vectors.digest
    if not force and is_current(out, kind=KIND, config=settings, parents=parents):
        return open_artifact(out, kind=KIND)
    with write_artifact(out, kind=KIND, config=settings, parents=parents) as writer:
        pq.write_table(catalog.items.table, writer.path / "items.parquet", compression="zstd")
        for name, artifact in parts.items():
            for file in artifact.manifest.files:
                target = writer.path / name / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.path / file, target)
        fitted = classic.fit(
            train,
            len(catalog.items),
            config.channels,
            profile_of=catalog.profile_of,
            vectors=None if vectors is None else vectors.matrix,
        )
        classic.save(fitted, writer.path / "channels")
        writer.facts |= {
            **_found_by_index(fitted, train, catalog),
            "items": len(catalog.items),
            "training": [weights.manifest.facts for _, weights in generators],
            "searches": all(_learned_searches(weights) for _, weights in generators),
        }
    return open_artifact(out, kind=KIND)


def _found_by_index(
    channels: Mapping[str, ClassicChannel], train: Histories, catalog: Catalog
) -> dict[str, dict[str, Any]]:
    """What the index of the two towers finds of the exact lists, for a sample of the training users."""
    towers = channels.get("two_tower")
    if not isinstance(towers, TowersChannel):
        return {}
    users = np.random.default_rng(0).permutation(np.flatnonzero(train.lengths > 0))[:_ASKED].tolist()
    quality = towers.quality([Query(history=train.of(user), profile=catalog.profile_of(user)) for user in users])
    log("two_tower: " + ", ".join(f"{name} {value}" for name, value in quality.items()))
    return {"two_tower": quality}


def _learned_searches(model: Artifact) -> bool:
    """Whether searches were among what the model was trained on: a template with words for them proves nothing."""
    mixture = model.manifest.config.get("train", {}).get("mixture") or {"shares": {}}
    return "searches" in model.manifest.parents or not {"search", "query_to_sid"}.isdisjoint(mixture["shares"])


def _opened(paths: Path | str | Sequence[Path], kind: str) -> list[Artifact]:
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    return [open_artifact(path, kind=kind) for path in listed]


def _require_same_parts(catalog: Catalog, parts: Mapping[str, Artifact]) -> None:
    """The ranker must have been trained on this bundle's generators: it reads their states and scores."""
    told = parts[RANKER].manifest.parents
    of = {"catalog": catalog.digest, **{name: part.digest for name, part in parts.items() if name != RANKER}}
    other = [name for name, digest in of.items() if told.get(name) != digest]
    if other:
        raise ArtifactError(
            "the ranker was trained on other parts than this bundle's",
            seen=", ".join(f"{name} {told.get(name)}" for name in other),
            allowed=", ".join(f"{name} {of[name]}" for name in other),
            fix="export without --ranker, run `genrecall rank train` on that bundle, then export again",
        )


def _require_lineage(catalog: Catalog, sids: Artifact, model: Artifact) -> None:
    """The model must know these SIDs (or the table that they were appended to) and these events."""
    trained_on = model.manifest.parents.get("sid")
    older = sids.manifest.config.get("descends_from", [])
    if trained_on not in (sids.digest, *older):
        raise ArtifactError(
            "the model was trained on another SID table",
            seen=f"model of {trained_on}, table {sids.digest}",
            allowed="the SID table that the model was trained on, or one that items were appended to since",
            fix="run `genrecall train` again, or give the --sid that it was trained with",
        )
    if trained_on == sids.digest and model.manifest.parents.get("catalog") != catalog.digest:
        raise ArtifactError(
            "the model was trained on another catalog",
            seen=f"model of {model.manifest.parents.get('catalog')}, catalog {catalog.digest}",
            allowed="the catalog that the model was trained on: other events might hold its test cases",
            fix="run `genrecall train` again, or give the --catalog that it was trained with",
        )
