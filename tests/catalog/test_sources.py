import gzip
import json

import pyarrow.parquet as pq
import pytest

from genrecall.catalog.sources.lines import blocks
from genrecall.catalog.sources.open import open_source
from genrecall.catalog.store import Catalog
from tests import synthetic
from tests.catalog.files import EVENTS, ITEMS, run, shop

REVIEWS_2014 = [
    {"reviewerID": "A1", "asin": "B01", "overall": 5.0, "unixReviewTime": 1355616000, "reviewText": "good"},
    {"reviewerID": "A1", "asin": "B02", "overall": 2.0, "unixReviewTime": 1355702400, "reviewText": "bad"},
]
META_2014 = {
    "asin": "B01",
    "title": "Nail file",
    "price": 3.5,
    "brand": "X",
    "categories": [["Beauty", "Nails"], ["Gifts"]],
}
META_2018 = {"asin": "B02", "title": "Pen", "price": "$4.99", "category": ["Office", "Pens"], "description": ["a", "b"]}
META_2023 = {"parent_asin": "B01", "title": "Cup", "store": "Y", "price": None, "categories": [], "features": ["big"]}
REVIEWS_2023 = [
    {"user_id": "A1", "asin": "B09", "parent_asin": "B01", "rating": 4.0, "timestamp": 1588687728923},
]


def write(path, objects, loose=False):
    text = "".join((repr(row) if loose else json.dumps(row)) + "\n" for row in objects)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load(tmp_path, *arguments):
    status, _, error = run("import", *arguments, "--out", tmp_path / "catalog")
    assert status == 0, error
    return Catalog.load(tmp_path / "catalog")


@pytest.mark.parametrize("loose", [False, True])
def test_amazon_2014(loose, tmp_path):
    items = write(tmp_path / "meta_Beauty.json.gz", [META_2014, {"asin": "B02", "title": "O'Brien"}], loose)
    events = write(tmp_path / "reviews_Beauty.json.gz", REVIEWS_2014, loose)
    catalog = load(tmp_path, "--items", items, "--events", events)
    assert catalog.items.table.slice(0, 1).to_pylist()[0]["categories"] == "Beauty > Nails | Gifts"
    assert catalog.items.titles == ["Nail file", "O'Brien"]
    assert catalog.items.table["price"].to_pylist() == [3.5, None]
    assert catalog.events.time.tolist() == [1355616000, 1355702400]
    assert catalog.events.timed


def test_amazon_2018(tmp_path):
    items = write(tmp_path / "meta.json", [META_2018, {"asin": "B01", "title": "Ink", "category": []}])
    events = write(tmp_path / "reviews.json", REVIEWS_2014)
    catalog = load(tmp_path, "--items", items, "--events", events, "--source", "amazon", "--min-rating", "4")
    row = catalog.items.table.to_pylist()[0]
    assert (row["categories"], row["description"], row["price"]) == ("Office > Pens", "a\nb", 4.99)
    assert len(catalog.events) == 1


def test_amazon_2023(tmp_path):
    items = write(tmp_path / "meta.jsonl.gz", [META_2023])
    events = write(tmp_path / "reviews.jsonl.gz", REVIEWS_2023)
    catalog = load(tmp_path, "--items", items, "--events", events)
    assert catalog.items.table["brand"].to_pylist() == ["Y"]
    assert catalog.events.time.tolist() == [1588687728]


def test_amazon_says_when_files_are_swapped(tmp_path):
    items = write(tmp_path / "meta.json", [META_2018])
    events = write(tmp_path / "reviews.json", REVIEWS_2014)
    status, _, error = run("validate", "--items", events, "--events", items)
    assert status == 2
    assert "no file of Amazon reviews" in error


def test_movielens_100k(tmp_path):
    (tmp_path / "u.data").write_text("196\t1\t3\t881250949\n196\t2\t5\t881250950\n")
    flags = ["0"] * 19
    flags[3], flags[5] = "1", "1"
    movies = [["1", "Léon (1994)", "01-Jan-1995", "", "http://x", *flags], ["2", "unknown", "", "", "", *["0"] * 19]]
    (tmp_path / "u.item").write_bytes("\n".join("|".join(row) for row in movies).encode("latin1"))
    (tmp_path / "u.user").write_text("196|49|M|writer|55105\n")
    catalog = load(tmp_path, tmp_path)
    rows = catalog.items.table.to_pylist()
    assert rows[0] == {"item_id": "1", "title": "Léon", "genres": "Animation, Comedy", "year": "1994"}
    assert rows[1]["title"] == "unknown"
    assert catalog.profile_of(0) == {"age": "49", "gender": "M", "occupation": "writer"}


def test_movielens_1m(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::5::978300760\n")
    (tmp_path / "movies.dat").write_bytes("10::Misérables, Les (1995)::Drama|Musical\n".encode("latin1"))
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n")
    catalog = load(tmp_path, tmp_path, "--source", "movielens")
    assert catalog.items.table.to_pylist()[0] == {
        "item_id": "10",
        "title": "Misérables, Les",
        "genres": "Drama, Musical",
        "year": "1995",
    }
    assert catalog.profile_of(0) == {"age": "under 18", "gender": "F", "occupation": "K-12 student"}


def test_movielens_csv(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,10,3.5,1256677221\n1,11,5.0,1256677222\n")
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n10,"American President, The (1995)",Comedy|Drama\n11,Zulu,(no genres listed)\n'
    )
    catalog = load(tmp_path, tmp_path, "--min-rating", "4")
    assert catalog.items.titles == ["American President, The", "Zulu"]
    assert catalog.items.table["genres"].to_pylist() == ["Comedy, Drama", None]
    assert len(catalog.events) == 1


def test_recbole_atomic_files(tmp_path):
    (tmp_path / "ml.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t1\t3\t881250949\n"
    )
    (tmp_path / "ml.item").write_text(
        'item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\t"Toy" Story\t1995\tComedy\n'
    )
    (tmp_path / "ml.user").write_text("user_id:token\tage:token\tzip_code:token\n7\t24\t85711\n")
    catalog = load(tmp_path, tmp_path)
    assert catalog.items.table.to_pylist()[0] == {
        "item_id": "1",
        "title": '"Toy" Story',
        "year": "1995",
        "genres": "Comedy",
    }
    assert catalog.profile_of(0) == {"age": "24"}
    assert catalog.events.timed


def test_csv_keeps_leading_zeros_and_jsonl_agrees(tmp_path):
    csv = tmp_path / "csv"
    csv.mkdir()
    (csv / "items.csv").write_text('item_id,title,stock\n007,"Cup, red",3\n008,"Two\nlines",4.5\n')
    (csv / "events.csv.gz").write_bytes(
        gzip.compress(b"user_id,item_id,timestamp\n01,007,2020-01-01 00:00:00\n01,008,\n")
    )
    one = load(tmp_path, csv)
    assert one.items.ids == ["007", "008"]
    assert one.items.table["stock"].to_pylist() == [3.0, 4.5]
    assert one.items.text_columns == ["title"]
    assert one.events.user_ids == ["01"]
    assert one.events.time.tolist() == [1577836800]
    lines = tmp_path / "lines"
    lines.mkdir()
    write(
        lines / "items.jsonl", [{"item_id": "007", "title": "Cup, red"}, {"item_id": "008", "title": None, "stock": 4}]
    )
    write(lines / "interactions.jsonl.gz", [{"user_id": 1, "item_id": "007", "timestamp": 1577836800.7}])
    two = load(tmp_path, lines)
    assert two.items.ids == one.items.ids
    assert two.events.time.tolist() == one.events.time.tolist()
    assert two.events.user_ids == ["1"]


def test_jsonl_columns_may_begin_on_any_line(tmp_path):
    late = {"item_id": "z", "title": "Pot", "brand": "Acme", "weight": 1.5}
    rows = [{"item_id": f"{row}", "title": "Cup", "weight": None} for row in range(300)]
    write(tmp_path / "items.jsonl", [*rows, {**late, "weight": 2}, {**late, "item_id": "y"}])
    table = load(tmp_path, tmp_path).items.table
    assert table.column_names == ["item_id", "title", "weight", "brand"]
    assert table["brand"].to_pylist()[298:] == [None, None, "Acme", "Acme"]
    assert table["weight"].to_pylist()[298:] == [None, None, 2.0, 1.5]


def test_a_split_that_begins_late_is_not_lost(tmp_path):
    shop(tmp_path)
    (tmp_path / "events.parquet").unlink()
    rows = [{"user_id": "u", "item_id": "a", "timestamp": row} for row in range(300)]
    write(tmp_path / "events.jsonl", [*rows, {"user_id": "u", "item_id": "b", "timestamp": 900, "split": "test"}])
    status, output, _ = run("validate", tmp_path, "--json")
    assert status == 0
    found = {entry["name"]: entry["count"] for entry in json.loads(output)["findings"]}
    assert found["unknown_split"] == 300  # which part they belong to is not for us to guess


def test_mapping_hides_what_had_the_name(tmp_path):
    shop(tmp_path, items={**ITEMS, "keywords": ["w", "x", "y", "z"]}, events={**EVENTS, "order": [1] * 6})
    source = open_source(tmp_path).renamed({"title": "keywords"})
    assert source.items.columns == ("item_id", "title")
    assert source.items.table()["title"].to_pylist() == ["w", "x", "y", "z"]


def test_blocks_end_at_line_breaks(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"ab\ncdefgh\n\ni")
    for size in range(1, 14):
        pieces = list(blocks(path, size))
        assert b"".join(pieces) == b"ab\ncdefgh\n\ni"
        assert all(piece.endswith(b"\n") for piece in pieces[:-1])


def in_parts(folder, table, step):
    """As Spark writes it."""
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    for number, begin in enumerate(range(0, len(table), step)):
        pq.write_table(table.slice(begin, step), folder / f"part-{number:05d}-af30.snappy.parquet")
        (folder / f".part-{number:05d}-af30.snappy.parquet.crc").write_bytes(b"crc")
    return folder


def test_a_folder_of_parts_is_a_file(tmp_path):
    tables = synthetic.tables(users=20, items=16)
    whole = {name: tmp_path / f"{name}.parquet" for name in tables}
    for name, table in tables.items():
        pq.write_table(table, whole[name])
    options = [option for name, path in whole.items() for option in (f"--{name}", path)]
    expected = load(tmp_path, *options)
    parts = tmp_path / "parts"
    parts.mkdir()
    for name, table in tables.items():
        in_parts(parts / name, table, 7)
    options = [option for name in tables for option in (f"--{name}", parts / name)]
    status, _, error = run("import", *options, "--out", tmp_path / "joined")
    assert status == 0, error
    for arguments in (options, [parts]):
        status, _, error = run("import", *arguments, "--out", tmp_path / "joined")
        assert (status, "is current" in error) == (0, True)
    joined = Catalog.load(tmp_path / "joined")
    assert joined.items.ids == expected.items.ids
    assert (joined.events.item == expected.events.item).all()
    assert joined.users.equals(expected.users)
    last = sorted((parts / "events").glob("part-*"))[-1]
    pq.write_table(pq.read_table(last).slice(1), last)
    assert "is current" not in run("import", parts, "--out", tmp_path / "joined")[2]


def test_folders_that_are_no_table(tmp_path):
    tables = synthetic.tables(users=4, items=8)
    folder = in_parts(tmp_path / "items", tables["items"], 4)
    pq.write_table(tables["users"], folder / "part-9.parquet")
    assert "not of one table" in run("validate", "--items", folder)[2]
    (folder / "part-9.parquet").unlink()
    (folder / "day=2026-01-01").mkdir()
    assert "seen:    a directory" in run("validate", "--items", folder)[2]  # its column would be lost
    (tmp_path / "empty").mkdir()
    assert "seen:    a directory" in run("validate", "--items", tmp_path / "empty")[2]
