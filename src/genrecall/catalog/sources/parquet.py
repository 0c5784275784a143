"""Tables under our own column names, in Parquet, CSV, TSV or JSON lines (the text formats also as ``.gz``)."""

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
    kinds = sorted({kind(path).removeprefix(".") for path in files.values()})
    return Source(name="+".join(kinds), unused_files=unused_files, **streams)  # type: ignore[arg-type]


def find(directory: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files of a directory by table name, and the names of those that are none of ours."""
    found: dict[str, Path] = {}
    unused = []
    for path in sorted(directory.iterdir()):
        table = STEMS.get(path.name.split(".")[0])
        if table is None or kind(path) not in SUFFIXES:
            if kind(path) in SUFFIXES:
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
    """Open one file by its suffix."""
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
