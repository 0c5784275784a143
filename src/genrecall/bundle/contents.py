"""All of a bundle but its models: what a gateway reads, without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq

from genrecall.artifacts import Artifact, open_artifact
from genrecall.bundle import channels as classic
from genrecall.bundle.channels import ClassicChannel
from genrecall.bundle.parts import KIND, RANKER, parts_of
from genrecall.catalog.items import Items
from genrecall.rank.delta import table_shapes
from genrecall.recall.fusion import Fusion
from genrecall.sid.space import SidSpace
from genrecall.sid.table import FILE, SidTable


@dataclass(frozen=True, kw_only=True, eq=False)
class RankerFacts:
    """A bundle's ranker without its network.

    Attributes:
        digest: of its artifact.
        tables: rows and width of its embedding tables, for deltas.
    """

    digest: str
    tables: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, bundle: Artifact) -> Self:
        """Of an opened bundle."""
        return cls(
            digest=bundle.manifest.parents[RANKER], tables=table_shapes(bundle.file(f"{RANKER}/tables.safetensors"))
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """Items, SIDs, classic channels and fusion of a bundle.

    Attributes:
        path: of the bundle.
        digest: of the bundle.
        catalog_digest: of the catalog that it was made from.
        items: I items.
        table: their SIDs (of the first generator, where there are several).
        channels: the classic channels by name.
        fusion: None where the bundle ships none.
        split: how histories were prepared for training.
        beam: W that the bundle ships.
        ranker: what of the ranker a gateway needs; None where the bundle ships none.
    """

    path: Path
    digest: str
    catalog_digest: str
    items: Items
    table: SidTable
    channels: Mapping[str, ClassicChannel]
    fusion: Fusion | None
    split: Mapping[str, Any]
    beam: int
    ranker: RankerFacts | None = None

    @classmethod
    def open(cls, path: Path | str, only: Collection[str] | None = None) -> Self:
        """Open a bundle and verify every checksum; no model is read, and of the channels ``only`` these, or all."""
        bundle = open_artifact(path, kind=KIND)
        config, sid = bundle.manifest.config, parts_of(0)[0]
        space = SidSpace(tuple(config["spaces"][0]))
        return cls(
            path=bundle.path,
            digest=bundle.digest,
            catalog_digest=bundle.manifest.parents["catalog"],
            items=Items(table=pq.read_table(bundle.file("items.parquet"))),
            table=SidTable.read(bundle.file(f"{sid}/{FILE}"), space, bundle.manifest.parents[sid]),
            channels=classic.load(bundle.path / "channels", only),
            fusion=classic.load_fusion(bundle.path / "channels"),
            split=config["split"],
            beam=config["generative"]["beam"],
            ranker=RankerFacts.of(bundle) if RANKER in bundle.manifest.parents else None,
        )
