"""MovieLens folders (Harper & Konstan, ACM TiiS 2015), as GroupLens packs them and as RecBole's atomic files.

| release | ratings | movies | users |
| --- | --- | --- | --- |
| 100K | u.data, tabs | u.item, bars, latin-1, 19 genre flags | u.user, bars |
| 1M, 10M | ratings.dat, ``::`` | movies.dat, latin-1 | users.dat with coded age and occupation (1M) |
| 20M, 25M, 32M, latest | ratings.csv | movies.csv | none |
| RecBole | *.inter, typed header | *.item | *.user |

A rating is taken as a click-like event with its ``rating``. The year moves out of the title into a column of its own;
age, gender and occupation are profile columns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from genrecall.catalog.sources.lines import blocks
from genrecall.catalog.sources.parquet import csv_stream
from genrecall.catalog.sources.source import Source, Stream
from genrecall.errors import DataError

# fmt: off
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
_AGES = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56+"}
_OCCUPATIONS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)
# fmt: on
_PROFILE = ("user_id", "age", "gender", "occupation")
_RATING = ("user_id", "item_id", "rating", "timestamp")
_YEAR = r"^(?P<title>.*?)\s*\((?P<year>[0-9]{4})[^)]*\)\s*$"
Columns = dict[str, pa.Array]


def source(directory: Path) -> Source:
    """Open a MovieLens folder of any release."""
    if not looks_like(directory):
        raise DataError(
            f"{directory} is no MovieLens folder",
            seen=", ".join(sorted(path.name for path in directory.iterdir())[:8])
            if directory.is_dir()
            else "no folder",
            allowed="u.data and u.item; ratings.dat and movies.dat; ratings.csv and movies.csv; or *.inter and *.item",
            fix="give the unpacked folder",
        )
    if (directory / "u.data").exists():
        movies = ("item_id", "title", "released", "video_released", "url", *_GENRES)
        users = directory / "u.user"
        return Source(
            name="movielens-100k",
            items=_mapped(_split(directory / "u.item", b"|", movies), ("item_id", "title", "genres", "year"), _flags),
            events=_split(directory / "u.data", b"\t", _RATING),
            users=_split(users, b"|", (*_PROFILE, "zip_code")).without("zip_code") if users.exists() else None,
            unused_columns=("zip_code of u.user", "release dates and url of u.item"),
        )
    if (directory / "ratings.dat").exists():
        users = directory / "users.dat"
        named = _split(users, b"::", ("user_id", "gender", "age", "occupation", "zip_code")) if users.exists() else None
        movies_dat = _split(directory / "movies.dat", b"::", ("item_id", "title", "genres"))
        return Source(
            name="movielens-1m",
            items=_mapped(movies_dat, ("item_id", "title", "genres", "year"), _movie),
            events=_split(directory / "ratings.dat", b"::", _RATING),
            users=_mapped(named.without("zip_code"), _PROFILE, _decoded) if named else None,
            unused_columns=("zip_code of users.dat",),
        )
    if (directory / "ratings.csv").exists():
        movies_csv = csv_stream(directory / "movies.csv").renamed({"item_id": "movieId"})
        names = {"user_id": "userId", "item_id": "movieId"}
        return Source(
            name="movielens-csv",
            items=_mapped(movies_csv, ("item_id", "title", "genres", "year"), _movie),
            events=csv_stream(directory / "ratings.csv").renamed(names),
        )
    return _atomic(directory)


def looks_like(directory: Path) -> bool:
    """Whether this is a folder of one of the releases."""
    pairs = (("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv"))
    if not directory.is_dir():
        return False
    atomic = bool([*directory.glob("*.inter")]) and bool([*directory.glob("*.item")])
    return atomic or any(all((directory / name).exists() for name in pair) for pair in pairs)


def _atomic(directory: Path) -> Source:
    """RecBole's atomic files: tabs, and a header such as ``user_id:token``."""

    def opened(suffix: str) -> Stream | None:
        path = next(iter(sorted(directory.glob(f"*.{suffix}"))), None)
        if path is None:
            return None
        stream = csv_stream(path, delimiter="\t", quoted=False)
        plain = {name.split(":")[0]: name for name in stream.columns}
        return stream.renamed(plain)

    items, events, users = opened("item"), opened("inter"), opened("user")
    assert items is not None
    names = {"title": "movie_title", "year": "release_year", "genres": "class"}
    hidden = (f"zip_code of {users.path.name}",) if users and "zip_code" in users.columns else ()
    profiles = users.without("zip_code") if users else None
    return Source(
        name="recbole",
        items=replace(items.renamed(names), untyped=False),
        events=events,
        users=profiles,
        unused_columns=hidden,
    )


def _split(path: Path, separator: bytes, names: Sequence[str]) -> Stream:
    """A text table without header; every column arrives as strings."""
    unit = b"\x1f"  # Arrow splits at one byte; this one occurs in no title

    def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        for block in blocks(path):
            table = pa.csv.read_csv(
                pa.BufferReader(block.replace(separator, unit)),
                read_options=pa.csv.ReadOptions(
                    column_names=list(names), encoding="latin1" if _latin(block) else "utf8"
                ),
                parse_options=pa.csv.ParseOptions(delimiter=unit.decode(), quote_char=False),
                convert_options=pa.csv.ConvertOptions(
                    column_types={name: pa.string() for name in names}, include_columns=list(wanted)
                ),
            )
            yield from table.to_batches()

    return Stream(path=path, columns=tuple(names), read=read, untyped=True)


def _latin(block: bytes) -> bool:
    """The older releases are latin-1, the later ones UTF-8."""
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _mapped(stream: Stream, names: Sequence[str], change: Callable[[Columns], Columns]) -> Stream:
    """A stream whose columns are computed from another's; its strings are meant as text."""

    def read(wanted: Collection[str]) -> Iterator[pa.RecordBatch]:
        for batch in stream.read(stream.columns):
            columns = change({name: batch[name] for name in stream.columns})
            yield pa.RecordBatch.from_arrays([columns[name] for name in wanted], names=list(wanted))

    return Stream(path=stream.path, columns=tuple(names), read=read)


def _movie(columns: Columns) -> Columns:
    """Year out of the title, genres with commas; MovieLens writes ``(no genres listed)`` where there are none."""
    found = pc.extract_regex(columns["title"], _YEAR)
    title = pc.coalesce(pc.struct_field(found, "title"), columns["title"])
    genres = pc.replace_substring(columns["genres"], "|", ", ")
    genres = pc.if_else(pc.equal(genres, "(no genres listed)"), pa.scalar(None, pa.string()), genres)
    return {"item_id": columns["item_id"], "title": title, "genres": genres, "year": pc.struct_field(found, "year")}


def _flags(columns: Columns) -> Columns:
    """100K: genres out of 19 columns of 0 and 1."""
    flags = [(name, columns[name].to_pylist()) for name in _GENRES]
    count = len(columns["item_id"])
    genres = ["|".join(name for name, values in flags if values[row] == "1") for row in range(count)]
    return _movie({**columns, "genres": pa.array(genres, pa.string())})


def _decoded(columns: Columns) -> Columns:
    """1M: age groups and occupations in words."""
    ages = [_AGES.get(age, age) for age in columns["age"].to_pylist()]
    occupations = [
        _OCCUPATIONS[int(code)] if code.isdigit() and int(code) < len(_OCCUPATIONS) else code
        for code in columns["occupation"].to_pylist()
    ]
    return {**columns, "age": pa.array(ages, pa.string()), "occupation": pa.array(occupations, pa.string())}
