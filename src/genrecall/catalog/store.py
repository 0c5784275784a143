"""The catalog artifact: items, events, profiles and queries under one digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrecall import artifacts
from genrecall.catalog.config import ImportConfig
from genrecall.catalog.events import Events
from genrecall.catalog.intake import Intake, take_in
from genrecall.catalog.items import Items
from genrecall.catalog.report import Findings, ValidationReport
from genrecall.catalog.sources.open import open_source
from genrecall.catalog.sources.source import Source
from genrecall.errors import ArtifactError
from genrecall.telemetry import log

KIND = "catalog"
_COLUMNS = ("user", "item", "time", "kind", "session", "split", "query")


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalog:
    """Everything that is known of items and users.

    Attributes:
        items: I items.
        events: E events of U users; empty for a catalog of items only.
        users: ``user_id`` and profile columns; None where the source has no profiles.
        queries: ``query_id``, ``query``; None where the source has none.
        query_items: ``query_id``, ``item_id``; None where the source has none.
        digest: of the artifact this was read from; empty while it has not been stored.
        path: of that artifact.
    """

    items: Items
    events: Events
    users: pa.Table | None = None
    queries: pa.Table | None = None
    query_items: pa.Table | None = None
    digest: str = ""
    path: Path | None = None

    @classmethod
    def load(cls, path: Path | str) -> Catalog:
        """Read a ``catalog`` artifact and verify its checksums."""
        artifact = artifacts.open_artifact(path, kind=KIND)
        table = pq.read_table(artifact.file("events.parquet"))
        columns = {name: table[name].to_numpy() for name in _COLUMNS if name in table.column_names}
        texts = _optional(artifact, "query_texts.parquet")
        events = Events(
            **columns,
            user_ids=pq.read_table(artifact.file("user_ids.parquet"))["user_id"].to_pylist(),
            timed=table.schema.metadata[b"timed"] == b"true",
            query_texts=[] if texts is None else texts["query"].to_pylist(),
        )
        return cls(
            items=Items(table=pq.read_table(artifact.file("items.parquet"))),
            events=events,
            users=_optional(artifact, "users.parquet"),
            queries=_optional(artifact, "queries.parquet"),
            query_items=_optional(artifact, "query_items.parquet"),
            digest=artifact.digest,
            path=artifact.path,
        )

    @cached_property
    def user_index(self) -> dict[str, int]:
        """User index by id."""
        return {user_id: index for index, user_id in enumerate(self.events.user_ids)}

    @cached_property
    def _profile_row(self) -> dict[str, int]:
        if self.users is None:
            return {}
        return {user_id: row for row, user_id in enumerate(self.users["user_id"].to_pylist())}

    def profile_of(self, user: int) -> dict[str, str]:
        """Profile of the user with this index, as text by column; what is missing is absent."""
        row = self._profile_row.get(self.events.user_ids[user])
        if self.users is None or row is None:
            return {}
        values = self.users.slice(row, 1).to_pylist()[0]
        return {name: _text(value) for name, value in values.items() if name != "user_id" and value not in (None, "")}

    def require_events(self, purpose: str) -> None:
        """Refuse a catalog of items only where ``purpose`` needs events."""
        if not len(self.events):
            raise ArtifactError(
                f"{purpose} needs events, and this catalog holds items only",
                seen=f"{len(self.items)} items, no events",
                allowed="a catalog imported with an events file",
                fix="run `genrecall data import` with --events",
            )


def validate(source: Source | Mapping[str, Path], config: ImportConfig | None = None) -> ValidationReport:
    """Read and check everything as an import would, and write nothing."""
    config = config or ImportConfig()
    report = take_in(_opened(source), config).report
    if config.strict:
        report.require_clean()
    return report


def import_catalog(
    source: Source | Mapping[str, Path],
    out: Path | str,
    config: ImportConfig | None = None,
    *,
    later: ImportConfig | None = None,
    findings: Findings | None = None,
    force: bool = False,
) -> Catalog:
    """Read, check and store a catalog at ``out``; an artifact that is there and current is only loaded.

    Args:
        source: an opened source, or files by table name (``items``, ``events``, ``users``, …).
        out: directory of the artifact.
        config: settings.
        later: settings of files that extend the catalog, where they are others.
        findings: what was found already, when the source was made.
        force: import again even if the artifact is current.
    """
    config = config or ImportConfig()
    source = _opened(source)
    identity = _identity(source, config) | ({"later": later.identity()} if later is not None else {})
    if not force and artifacts.is_current(out, kind=KIND, config=identity):
        log(f"catalog: {out} is current")
        return Catalog.load(out)
    taken = take_in(source, config, findings)
    if config.strict:
        taken.report.require_clean()
    with artifacts.write_artifact(out, kind=KIND, config=identity) as writer:
        _write(taken, writer.path)
        writer.facts |= taken.report.counts
    return Catalog.load(out)


def read_report(path: Path | str) -> ValidationReport:
    """The report that an import left in its artifact."""
    return ValidationReport.read(artifacts.open_artifact(path, kind=KIND, verify=False).file("report.json"))


def _opened(source: Source | Mapping[str, Path]) -> Source:
    return source if isinstance(source, Source) else open_source(files=source)


def _identity(source: Source, config: ImportConfig) -> dict[str, Any]:
    """What makes an import what it is: the format, the content of the files (not their place) and the settings."""
    hashes = {name: [artifacts.sha256(file) for file in stream.files] for name, stream in source.streams.items()}
    files = {name: own if len(own) > 1 else own[0] for name, own in hashes.items()}
    return {"source": source.name, "files": files, "import": config.identity()}


def _write(taken: Intake, directory: Path) -> None:
    events = taken.events
    columns = {
        "user": events.user,
        "item": events.item,
        "time": events.time,
        "kind": events.kind,
        "session": events.session,
        "split": events.split,
        "query": events.query,
    }
    present = {name: pa.array(column) for name, column in columns.items() if column is not None}
    tables = {
        "items": taken.items.table,
        "events": pa.table(present).replace_schema_metadata({"timed": "true" if events.timed else "false"}),
        "user_ids": pa.table({"user_id": pa.array(events.user_ids, pa.string())}),
        "users": taken.users,
        "queries": taken.queries,
        "query_items": taken.query_items,
        "query_texts": pa.table({"query": events.query_texts}) if events.query_texts else None,
    }
    for name, table in tables.items():
        if table is not None:
            pq.write_table(table, directory / f"{name}.parquet", compression="zstd")
    taken.report.write(directory / "report.json")


def _optional(artifact: artifacts.Artifact, name: str) -> pa.Table | None:
    return pq.read_table(artifact.file(name)) if name in artifact.manifest.files else None


def _text(value: object) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)
