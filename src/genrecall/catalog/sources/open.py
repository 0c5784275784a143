"""Which adapter reads an input: said by name, or told by the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from genrecall.catalog.sources import amazon, movielens, parquet
from genrecall.catalog.sources.source import TABLES, Source, no_file
from genrecall.errors import ConfigError, DataError

NAMES = ("auto", "parquet", "amazon", "movielens")


def open_source(
    directory: Path | None = None, *, files: Mapping[str, Path] | None = None, name: str = "auto"
) -> Source:
    """Open an input.

    Args:
        directory: a folder with files of known names, or a MovieLens folder.
        files: files by table name (``items``, ``events``, ``users``, ``queries``, ``query_items``); they go before
            those of the directory.
        name: one of NAMES; ``parquet`` also means CSV, TSV and JSON lines under our own column names.
    """
    files = {table: Path(path) for table, path in (files or {}).items()}
    if name not in NAMES:
        raise ConfigError("unknown source", seen=name, allowed=", ".join(NAMES), fix="give one of these to --source")
    assert set(files) <= set(TABLES), files
    if directory is not None and not directory.is_dir():
        raise DataError(
            f"there is no directory {directory}",
            seen="a file" if directory.exists() else "nothing there",
            allowed="a directory with items.* and events.* or interactions.*",
            fix="correct the path, or name files: --items FILE --events FILE",
        )
    if name == "movielens" or (name == "auto" and directory is not None and movielens.looks_like(directory)):
        if directory is None:
            raise ConfigError(
                "MovieLens is read from its folder",
                seen="no directory",
                allowed="genrecall data import FOLDER --source movielens",
                fix="give the folder instead of single files",
            )
        return movielens.source(directory)
    unused: tuple[str, ...] = ()
    if directory is not None:
        found, unused = parquet.find(directory)
        files = {**found, **files}
    if "items" not in files:
        raise DataError(
            "there is no file of items",
            seen=", ".join(f"{table} {path.name}" for table, path in files.items()) or "no file of ours",
            allowed=f"items.* with one of {', '.join(parquet.SUFFIXES)}",
            fix="name it: --items FILE",
        )
    for path in files.values():
        if not path.exists():
            raise no_file(path)
    if name == "amazon" or (name == "auto" and _is_amazon(files)):
        return amazon.source(files["items"], files.get("events"))
    return parquet.source(files, unused)


def _is_amazon(files: Mapping[str, Path]) -> bool:
    lines = [path for path in files.values() if path.is_file() and parquet.kind(path) in (".json", ".jsonl")]
    return bool(lines) and all(path.stat().st_size > 0 and amazon.looks_like(path) for path in lines)
