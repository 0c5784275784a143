"""Text files by line: whole-line blocks, JSON lines, and the Python-literal lines of old data releases."""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.json

from genrecall.catalog.sources.source import Stream, empty, reading, reason
from genrecall.errors import DataError
from genrecall.telemetry import track

BLOCK_BYTES = 1 << 25
_PEEK = 200  # values that tell the type of a column


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed if it ends in ``.gz``."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The file in pieces that end at line breaks."""
    rest = b""
    with open_bytes(path) as stream:
        while piece := stream.read(block_bytes):
            cut = piece.rfind(b"\n") + 1
            if cut:
                yield rest + piece[:cut]
                rest = piece[cut:]
            else:
                rest += piece
    if rest.strip():
        yield rest


def objects(path: Path, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """One dictionary a line: JSON, or a Python literal where lines start with ``{'``."""
    loose = None
    found = 0
    with reading(path), open_bytes(path) as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.strip()
            if not line:
                continue
            if loose is None:
                loose = line.startswith(b"{'")
            found += 1
            try:
                value = ast.literal_eval(line.decode("utf-8")) if loose else json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError(f"a {type(value).__name__}")
            except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise DataError(
                    f"line {number} of {path.name} is not a JSON object",
                    seen=line[:80].decode("utf-8", "replace") + f" ({error})",
                    allowed="one JSON object a line (JSONL)",
                    fix="mend that line, or write the file again with one object a line",
                ) from None
            yield value
            if found == limit:
                return


def grouped(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """The rows in lists of up to ``size``."""
    source = iter(rows)
    while group := list(islice(source, size)):
        yield group


def json_stream(path: Path, limit: int | None = None) -> Stream:
    """JSON lines as a stream.

    Args:
        path: the file.
        limit: lines that tell which columns there are; None looks at all, as a column may begin on any line.
    """
    values: dict[str, list[Any]] = {}
    known: set[str] = set()  # columns with enough values
    for row in track(objects(path, limit), f"columns of {path.name}"):
        for name, value in row.items():
            if name in known:
                continue
            found = values.setdefault(name, [])
            if value is not None:
                found.append(value)
                if len(found) == _PEEK:
                    known.add(name)
    if not values:
        raise empty(path)

    def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([(name, _kind(values[name], path, name)) for name in wanted])
        options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        for block in blocks(path):
            whole = pa.json.ReadOptions(block_size=max(len(block), 1))
            table = pa.json.read_json(pa.BufferReader(block), read_options=whole, parse_options=options)
            yield from table.combine_chunks().to_batches()

    return Stream(path=path, columns=tuple(values), read=read)


def _kind(values: list[Any], path: Path, name: str) -> pa.DataType:
    """Arrow type of a few JSON values; a column of nothing but nulls is taken as text."""
    if not values:
        return pa.string()
    if any(isinstance(value, float) for value in values) and all(isinstance(value, int | float) for value in values):
        return pa.float64()
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise DataError(
            f"column {name} of {path.name} cannot be read",
            seen=reason(error),
            allowed="one type in all lines: strings, or whole numbers of at most 64 bits",
            fix="write its values as strings (in quotes) in every line",
        ) from None
