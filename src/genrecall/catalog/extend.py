"""A catalog that goes on: later events, new items and new columns' values added to one that is in use.

Known items keep their order, so that their indices and SIDs stay; a row that comes again replaces the columns that it
brings. New files are read by the settings that the catalog was imported with; k-cores and left-out items are not made
again, for what is known stays. What an import would count and report is counted and reported here, too: the union is
imported.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrecall.artifacts import open_artifact
from genrecall.catalog import columns
from genrecall.catalog.config import ImportConfig
from genrecall.catalog.events import KINDS, SPLITS
from genrecall.catalog.log import KIND_NAMES
from genrecall.catalog.report import Findings
from genrecall.catalog.sources.open import open_source
from genrecall.catalog.sources.source import Stream
from genrecall.catalog.store import Catalog, import_catalog
from genrecall.catalog.tables import keyed
from genrecall.errors import DataError

_KEYS = {"items": "item_id", "users": "user_id"}


def extend_catalog(
    catalog: Catalog,
    out: Path | str,
    *,
    events: Path | None = None,
    items: Path | None = None,
    users: Path | None = None,
) -> Catalog:
    """Write the catalog of all that was known and all that is new; one that is current is only loaded.

    Args:
        catalog: what is in use.
        out: directory of the new artifact.
        events: file of the new events, in any format of an import; repeats of known ones count once.
        items: file of new items, or of new values for known ones.
        users: file of profiles, likewise.

    Raises:
        DataError: the new events have other columns of time or split than the known ones, or ids repeat within the
            new items or users, as an import refuses them.
    """
    settings = _settings(catalog)
    given = {"events": events, "items": items, "users": users}
    files = {name: path for name, path in given.items() if path is not None}
    # The adapters want a file of items, which an extension may lack.
    streams = open_source(files={"items": next(iter(files.values())), **files}).streams if files else {}
    fresh = {name: streams[name].renamed(settings.columns).table() for name in files}
    findings = Findings()
    for name in _KEYS.keys() & fresh.keys():
        first = name == "items" and settings.first_of_duplicate_items
        fresh[name] = keyed(fresh[name], streams[name], name, findings, first=first)
    if "events" in fresh:
        fresh["events"] = _events(catalog, fresh["events"], streams["events"], settings)
    known = {
        "items": catalog.items.table,
        "users": catalog.users,
        "events": _written(catalog),
        "queries": catalog.queries,
        "query_items": catalog.query_items,
    }
    work = Path(out).with_name(f".union-{Path(out).name}")
    work.mkdir(parents=True, exist_ok=True)
    try:
        paths = {}
        for name, old in known.items():
            table = _union(old, fresh.get(name), _KEYS.get(name))
            if table is not None:
                paths[name] = work / f"{name}.parquet"
                pq.write_table(table, paths[name])
        config = ImportConfig(event_default=settings.event_default)
        return import_catalog(paths, out, config, later=settings, findings=findings)
    finally:
        shutil.rmtree(work)


def _settings(catalog: Catalog) -> ImportConfig:
    """Of the import that the catalog began with."""
    if catalog.path is None:
        return ImportConfig()
    told = open_artifact(catalog.path, verify=False).manifest.config
    return ImportConfig(**told.get("later", told["import"]))


def _events(catalog: Catalog, fresh: pa.Table, stream: Stream, settings: ImportConfig) -> pa.Table:
    """The new events in the columns of the known ones, as the first import would have read them."""
    _require_same_shape(catalog, fresh)
    if settings.min_rating is not None and "rating" in fresh.column_names:  # a service's log rates nothing
        ratings = columns.numbers(fresh["rating"].combine_chunks(), stream.path, "rating", untyped=stream.untyped)
        fresh = fresh.filter(pc.fill_null(pc.greater_equal(ratings, settings.min_rating), False))
    if catalog.events.timed:
        place = fresh.column_names.index("timestamp")
        times = columns.seconds(fresh["timestamp"], stream.path, settings.time_unit, untyped=stream.untyped)
        fresh = fresh.set_column(place, "timestamp", times)
    if catalog.events.session is not None:
        fresh = _unknown(catalog, fresh, settings)
    return fresh


def _unknown(catalog: Catalog, fresh: pa.Table, settings: ImportConfig) -> pa.Table:
    """Without known events: sessions are stored as numbers, so that an import could not tell that these come again."""
    old = _written(catalog)
    if old is None:
        return fresh
    fresh = _like(fresh, old.schema)
    return fresh.filter(pc.invert(pc.is_in(_keys(fresh, settings), value_set=_keys(old, settings))))


def _keys(events: pa.Table, settings: ImportConfig) -> pa.ChunkedArray:
    kinds = pa.nulls(len(events), pa.string()) if "event" not in events.column_names else events["event"]
    named = {name: KIND_NAMES.get(name.strip().lower(), name) for name in pc.unique(kinds).to_pylist() if name}
    kinds = pa.chunked_array([pa.array([named.get(name, settings.event_default) for name in kinds.to_pylist()])])
    told = [events[name] for name in ("user_id", "item_id", "timestamp", "order") if name in events.column_names]
    texts = [pc.fill_null(pc.cast(column, pa.string()), "") for column in (*told, kinds)]
    return pc.binary_join_element_wise(*texts, "\0")


def _written(catalog: Catalog) -> pa.Table | None:
    """The events as their file would have them."""
    events = catalog.events
    if not len(events):
        return None
    ids = pa.array(catalog.items.ids, pa.string())
    told: dict[str, pa.Array] = {
        "user_id": pa.array(events.user_ids, pa.string()).take(pa.array(events.user)),
        "item_id": ids.take(pa.array(events.item, mask=events.item < 0)),
        "timestamp" if events.timed else "order": pa.array(events.time, pa.int64()),
        "event": pa.array(KINDS, pa.string()).take(pa.array(events.kind)),
    }
    if events.query is not None:
        texts = pa.array(events.query_texts, pa.string())
        told["query"] = texts.take(pa.array(events.query, mask=events.query < 0))
    if events.session is not None:
        told["session_id"] = pc.cast(pa.array(events.session, mask=events.session < 0), pa.string())
    if events.split is not None:
        told["split"] = pa.array(SPLITS, pa.string()).take(pa.array(events.split))
    return pa.table(told)


def _union(old: pa.Table | None, new: pa.Table | None, key: str | None) -> pa.Table | None:
    """Old rows, then new ones; with a ``key``, a known row takes over the values that come with it again."""
    if old is None or new is None:
        return old if new is None else new
    new = _like(new, old.schema)
    if key is None:
        return pa.concat_tables([old, new], promote_options="default")
    rows = {row[key]: row for row in old.to_pylist()}
    for row in new.to_pylist():
        told = {name: value for name, value in row.items() if value is not None}
        rows[row[key]] = {**rows.get(row[key], {}), **told}
    names = [*old.column_names, *(name for name in new.column_names if name not in old.column_names)]
    types = {**{field.name: field.type for field in new.schema}, **{field.name: field.type for field in old.schema}}
    return pa.table({name: pa.array([row.get(name) for row in rows.values()], types[name]) for name in names})


def _like(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Columns that both have, in the old type."""
    for place, name in enumerate(table.column_names):
        if name in schema.names and table.schema.field(name).type != schema.field(name).type:
            try:
                table = table.set_column(place, name, pc.cast(table[name], schema.field(name).type))
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"the column {name} has another type than in the catalog",
                    seen=f"{table.schema.field(name).type}: {error}",
                    allowed=str(schema.field(name).type),
                    fix="write the new file with the types of the old one",
                ) from None
    return table


def _require_same_shape(catalog: Catalog, fresh: pa.Table) -> None:
    """Times must be comparable, and held-out events must not be guessed."""
    old = _written(catalog)
    if old is None:
        return
    wanted = [name for name in ("timestamp", "order", "split") if name in old.column_names]
    missing = [name for name in wanted if name not in fresh.column_names]
    if missing:
        raise DataError(
            "the new events lack a column that the known ones have",
            seen=", ".join(fresh.column_names),
            allowed=f"a column {missing[0]}, as in the catalog",
            fix="add the column to the file"
            + ("; a catalog with a split of its own needs to know which events train" if missing[0] == "split" else ""),
        )
