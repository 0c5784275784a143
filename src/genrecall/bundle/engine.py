"""The engine of a bundle alone, for those who bring prompts and know whose SIDs are whose."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from genrecall.artifacts import open_artifact
from genrecall.bundle.export import KIND, parts_of
from genrecall.catalog.items import Items
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.errors import ConfigError
from genrecall.recall.generator import open_generator
from genrecall.sid.space import SidSpace
from genrecall.sid.table import FILE, SidTable


def open_engine(path: Path | str, *, device: str = "auto", dtype: str = "auto") -> tuple[Engine, str]:
    """The engine over a bundle's catalog, and the bundle's digest.

    Raises:
        ArtifactError: no bundle, or a damaged one.
        ConfigError: a bundle of several generators: their lists are joined by ``recall.ensemble``, not by an engine.
    """
    bundle = open_artifact(path, kind=KIND)
    config, (sid, model) = bundle.manifest.config, parts_of(0)
    require_one_generator(len(config["spaces"]))
    items = Items(table=pq.read_table(bundle.file("items.parquet")))
    table = SidTable.read(bundle.file(f"{sid}/{FILE}"), SidSpace(tuple(config["spaces"][0])))
    settings = EngineConfig(
        normalise=config["normalise"][0], device=device, dtype=dtype, beam=config["generative"]["beam"]
    )
    return open_generator(bundle.path / model, table, items.titles, settings)[0], bundle.digest


def require_one_generator(generators: int) -> None:
    """Refuse what one engine cannot answer."""
    if generators != 1:
        raise ConfigError(
            "one engine answers one generator",
            seen=f"a bundle of {generators} generators",
            allowed="a bundle of one generator",
            fix="export a bundle with one of them, or serve this one with `genrecall serve`",
        )
