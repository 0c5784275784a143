"""Tables under our own column names, in Parquet, CSV, TSV or JSON lines (the text formats also as ``.gz``).

A table is one file, or a folder of parts as Spark writes it: ``part-*`` of one format, beside ``_SUCCESS``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from genrecall.catalog.sources.lines import json_stream
from genrecall.catalog.sources.source import TABLES, UNREADABLE, Source, Stream, empty, no_file, reason
from genrecall.errors import DataError

BATCH_ROWS = 1 << 19
_CSV_BLOCK_BYTES = 1 << 24
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".parquet", ".pq", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
STEMS = {"interactions": "events", **{name: name for name in TABLES}}


def source(files: Mapping[str, Path], unused_files: tuple[str, ...] = ()) -> Source:
    """Open files by table name (``items``, ``events``, …)."""
    streams = {name: stream(path) for name, path in files.items()}
    kinds = sorted({kind(one.files[0]).removeprefix(".") for one in streams.values()})
    return Source(name="+".join(kinds), unused_files=unused_files, **streams)  # type: ignore[arg-type]


def find(directory: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files of a directory by table name, and the names of those that are none of ours."""
    found: dict[str, Path] = {}
    unused = []
    for path in sorted(directory.iterdir()):
        table = STEMS.get(path.name.split(".")[0])
        ours = bool(_parts(path)) if path.is_dir() else kind(path) in SUFFIXES
        if table is None or not ours:
            if ours:
                unused.append(path.name)
            continue
        if table in found:
            raise DataError(
                f"{directory.name} has two files for {table}",
                seen=f"{found[table].name} and {path.name}",
                allowed="one file a table",
                fix=f"name the right one: --{table.replace('_', '-')} FILE",
            )
        found[table] = path
    return found, tuple(unused)


def kind(path: Path) -> str:
    """The suffix that tells the format, without ``.gz``."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def stream(path: Path) -> Stream:
    """Open one file by its suffix, or a folder of parts."""
    if path.is_dir():
        return _joined(path)
    if not path.is_file():
        raise no_file(path)
    if path.stat().st_size == 0:
        raise empty(path)
    if kind(path) in (".parquet", ".pq"):
        return _parquet(path)
    if kind(path) in _DELIMITERS:
        return csv_stream(path, delimiter=_DELIMITERS[kind(path)])
    if kind(path) in SUFFIXES:
        return json_stream(path)
    raise DataError(
        f"{path.name} is of an unknown format",
        seen=path.suffix or "no suffix",
        allowed=", ".join(SUFFIXES) + " and the text formats with .gz",
        fix="convert the file, or give it the suffix of its format",
    )


def _joined(folder: Path) -> Stream:
    """The parts of a folder as one table, in the order of their names."""
    inside = _parts(folder)
    if not inside:
        raise no_file(folder)
    parts = [stream(path) for path in inside]
    first = parts[0]
    for part in parts:
        if (set(part.columns), kind(part.path)) != (set(first.columns), kind(first.path)):
            raise DataError(
                f"the parts of {folder.name} are not of one table",
                seen=f"{first.path.name} with {', '.join(first.columns)}; "
                f"{part.path.name} with {', '.join(part.columns)}",
                allowed="parts of one format with the same columns",
                fix="give the folder of a single table, or name a file",
            )

    def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        for part in parts:
            yield from part.batches(wanted)

    counts = [part.num_rows for part in parts if part.num_rows is not None]
    return Stream(
        path=folder,
        columns=first.columns,
        read=read,
        num_rows=sum(counts) if len(counts) == len(parts) else None,
        untyped=first.untyped,
        parts=tuple(inside),
    )


def _parts(folder: Path) -> list[Path]:
    """The parts in a folder of nothing else; what begins with ``_`` or ``.`` is a job's own note."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith(("_", ".")))
    return [] if any(path.is_dir() or kind(path) not in SUFFIXES for path in inside) else inside


def csv_stream(path: Path, *, delimiter: str = ",", quoted: bool = True, latin1: bool = False) -> Stream:
    """A text table with a header; every column arrives as strings, so that ids keep their leading zeros."""
    parse = pa.csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted)
    options = pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES, encoding="latin1" if latin1 else "utf8")
    try:
        with pa.csv.open_csv(path, read_options=options, parse_options=parse) as reader:
            names = tuple(reader.schema.names)
    except UNREADABLE as error:
        raise DataError(
            f"{path.name} cannot be read",
            seen=reason(error),
            allowed=f"a header and rows of as many values, separated by {delimiter!r}",
            fix="mend the file, or write it again as Parquet",
        ) from None

    def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        convert = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in wanted},
            include_columns=list(wanted),
            strings_can_be_null=True,
            null_values=[""],
            quoted_strings_can_be_null=True,
        )
        with pa.csv.open_csv(path, read_options=options, parse_options=parse, convert_options=convert) as reader:
            yield from reader

    return Stream(path=path, columns=names, read=read, untyped=True)


def _parquet(path: Path) -> Stream:
    try:
        with pq.ParquetFile(path) as file:
            names, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    except UNREADABLE as error:
        raise DataError(
            f"{path.name} is no Parquet file",
            seen=reason(error),
            allowed="a complete Parquet file",
            fix="write or copy it again",
        ) from None

    def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=list(wanted))

    return Stream(path=path, columns=names, read=read, num_rows=rows)
