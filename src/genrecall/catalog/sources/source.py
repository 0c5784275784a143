"""What an adapter hands over: up to five tables, each read in batches."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from genrecall.errors import DataError

TABLES = ("items", "events", "users", "queries", "query_items")
Batches = Callable[[Collection[str]], Iterator[pa.RecordBatch]]
UNREADABLE = (
    pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError, EOFError, zlib.error, OverflowError,
    UnicodeError,
)  # fmt: skip
"""What Arrow, gzip and the disk raise for files that are damaged, cut short, or change their types on the way."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One table that need not fit into memory.

    Attributes:
        path: where it comes from, for messages and checksums.
        columns: all its columns.
        read: reads it in batches; its argument is the columns wanted, a subset of ``columns``.
        num_rows: if known without reading.
        untyped: the format has no types (CSV): every column arrives as strings.
        parts: the files, where ``path`` is a folder.
    """

    path: Path
    columns: tuple[str, ...]
    read: Batches
    num_rows: int | None = None
    untyped: bool = False
    parts: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """What there is to read."""
        return self.parts or (self.path,)

    def __post_init__(self) -> None:
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise DataError(
                f"{self.path.name} has two columns of one name",
                seen=", ".join(repeated),
                allowed="every column under a name of its own",
                fix="rename or remove one of them and write the file again",
            )

    def renamed(self, mapping: Mapping[str, str]) -> Stream:
        """With source columns under our names (``mapping``: ours -> theirs), where this table has them.

        A column that had our name before is hidden.
        """
        ours = {theirs: name for name, theirs in mapping.items() if theirs in self.columns and name != theirs}
        if not ours:
            return self
        visible = tuple(ours.get(name, name) for name in self.columns if name in ours or name not in ours.values())
        theirs = {name: name for name in visible} | {name: source for source, name in ours.items()}

        def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
            for batch in self.read([theirs[name] for name in wanted]):
                yield pa.RecordBatch.from_arrays([batch.column(theirs[name]) for name in wanted], names=list(wanted))

        return replace(self, columns=visible, read=read)

    def without(self, *names: str) -> Stream:
        """With these columns hidden."""
        return replace(self, columns=tuple(name for name in self.columns if name not in names))

    def batches(self, wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Read these columns; what cannot be read is the user's error."""
        with reading(self.path):
            for batch in self.read(wanted):
                yield batch.select(list(wanted))

    def table(self, wanted: Collection[str] | None = None) -> pa.Table:
        """The whole table; an empty one is an error."""
        names = list(self.columns if wanted is None else wanted)
        batches = [batch for batch in self.batches(names) if batch.num_rows]
        if not batches:
            raise empty(self.path)
        return pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="permissive")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything that one input offers.

    Attributes:
        name: of the format, for the report.
        items: the items.
        events: what users did; None for items only.
        users: profiles.
        queries: search queries.
        query_items: which items answer which query.
        unused_files: names of files that lie beside and are not read.
        unused_columns: columns that the adapter leaves out, as ``column of file``.
    """

    name: str
    items: Stream
    events: Stream | None = None
    users: Stream | None = None
    queries: Stream | None = None
    query_items: Stream | None = None
    unused_files: tuple[str, ...] = ()
    unused_columns: tuple[str, ...] = ()

    @property
    def streams(self) -> dict[str, Stream]:
        """The tables that exist, by name."""
        every = zip(TABLES, (self.items, self.events, self.users, self.queries, self.query_items), strict=True)
        return {name: stream for name, stream in every if stream is not None}

    def renamed(self, mapping: Mapping[str, str]) -> Source:
        """With source columns under our names in every table."""
        known = {column for stream in self.streams.values() for column in stream.columns}
        for ours, theirs in mapping.items():
            if theirs not in known:
                raise DataError(
                    f"no table has the column {theirs} that is mapped to {ours}",
                    seen=f"--map {ours}={theirs}",
                    allowed=f"one of {', '.join(sorted(known))}",
                    fix="correct the name after the equals sign",
                )
        return replace(self, **{name: stream.renamed(mapping) for name, stream in self.streams.items()})  # type: ignore[arg-type]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in four parts what the libraries say about a file that they cannot read."""
    try:
        yield
    except UNREADABLE as error:
        raise DataError(
            f"{path.name} cannot be read",
            seen=reason(error),
            allowed="a whole, readable file whose columns keep one type from the first row to the last",
            fix="mend or copy the file again, or write it again as Parquet",
        ) from error


def reason(error: Exception) -> str:
    """The first line of an error, or its name where it has no words."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def empty(path: Path) -> DataError:
    """The error for a file without rows."""
    return DataError(
        f"{path.name} is empty",
        seen="no rows",
        allowed="at least one row",
        fix="check the job that wrote it, or give another file",
    )


def no_file(path: Path) -> DataError:
    """The error for a path that is no file."""
    folder = path.is_dir()
    return DataError(
        f"there is no file {path}",
        seen="a directory" if folder else "nothing there",
        allowed="a readable file, or a folder of nothing but parts of one table",
        fix="name a file in it; of a partitioned table, write one without partitions" if folder else "correct the path",
    )
