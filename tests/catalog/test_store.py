import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.catalog.config import ImportConfig
from genrecall.catalog.events import Events
from genrecall.catalog.items import Items
from genrecall.catalog.store import Catalog, import_catalog, read_report, validate
from genrecall.errors import ArtifactError
from tests.catalog.files import EVENTS, ITEMS, NOW, put, run, shop

rows = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcd?"), st.integers(0, 5), st.sampled_from("st")),
    min_size=1,
    max_size=30,
)


@given(rows)
@settings(deadline=None, max_examples=25)
def test_import_round_trip(tmp_path_factory, rows):
    directory = tmp_path_factory.mktemp("round")
    known = [row for row in rows if row[1] != "?"]
    if not known:
        return
    user, item, time, session = zip(*rows, strict=True)
    shop(directory, events={"user_id": user, "item_id": item, "timestamp": time, "session_id": session})
    catalog = import_catalog({name: directory / f"{name}.parquet" for name in ("items", "events")}, directory / "c")
    report = read_report(directory / "c")
    assert report.find("unknown_item") == len(rows) - len(known)
    assert report.find("duplicate_event") == len(known) - len(set(known))
    events = catalog.events
    for number, user_id in enumerate(events.user_ids):
        mine = list(dict.fromkeys(row for row in known if row[0] == user_id))
        where = events.user == number
        got = list(zip(events.time[where].tolist(), events.item[where].tolist(), strict=True))
        assert got == [(t, "abcd".index(i)) for _, i, t, _ in sorted(mine, key=lambda row: row[2])]
    assert report == validate({name: directory / f"{name}.parquet" for name in ("items", "events")})


def test_everything_comes_back(tmp_path):
    items = {**ITEMS, "price": ["$1,200.50", "3", None, "4.25"], "categories": [["x", "y"], [], None, ["z"]]}
    events = {
        **EVENTS,
        "event": ["view", "purchase", "query", None, "impression", "cart"],
        "item_id": ["a", "b", None, "a", "c", "d"],
        "query": [None, None, "cup", None, None, None],
        "session_id": [7, 7, 7, 8, None, 8],
        "split": ["history", "valid", "test", "train", "train", "training"],
    }
    users = {"user_id": ["v", "quiet"], "country": ["DE", None], "age": [31.0, 20.0]}
    queries = {"query_id": [1], "query": ["cups"]}
    shop(tmp_path, items, events, users=users, queries=queries, query_items={"query_id": [1], "item_id": ["a"]})
    status, output, _ = run("import", tmp_path, "--run", tmp_path / "run", "--json")
    assert status == 0
    catalog = Catalog.load(tmp_path / "run" / "catalog")
    assert json.loads(output)["digest"] == catalog.digest
    assert catalog.items.table["price"].to_pylist() == [1200.5, 3.0, None, 4.25]
    assert catalog.items.table["categories"].to_pylist() == ["x, y", "", None, "z"]
    assert catalog.items.text_columns == ["title", "categories"]
    assert catalog.items.index["c"] == 2
    assert catalog.events.user_ids == ["u", "v", "quiet"]
    assert catalog.events.kind.tolist() == [0, 2, 4, 0, 3, 1]
    assert catalog.events.item.tolist() == [0, 1, -1, 0, 2, 3]
    assert catalog.events.session is not None
    assert catalog.events.session.tolist() == [0, 0, 0, 1, -1, 1]
    assert catalog.events.split is not None
    assert catalog.events.split.tolist() == [0, 1, 2, 0, 0, 0]
    assert catalog.events.query is not None
    assert catalog.events.query_texts[catalog.events.query[2]] == "cup"
    histories = catalog.events.histories()
    assert [histories.of(user).tolist() for user in range(3)] == [[0, 1], [0, 3], []]
    assert [catalog.profile_of(user) for user in range(3)] == [{}, {"country": "DE", "age": "31"}, {"age": "20"}]
    assert catalog.user_index["quiet"] == 2
    assert catalog.queries is not None
    assert catalog.query_items is not None
    assert catalog.query_items.to_pylist() == [{"query_id": "1", "item_id": "a"}]


def test_items_only(tmp_path):
    put(tmp_path / "items.parquet", **ITEMS)
    status, _, _ = run("import", tmp_path, "--out", tmp_path / "catalog", "--strict")
    assert status == 0
    catalog = Catalog.load(tmp_path / "catalog")
    assert len(catalog.items) == 4
    assert len(catalog.events.histories()) == 0
    with pytest.raises(ArtifactError, match="holds items only"):
        catalog.require_events("training")


def test_second_import_only_loads(tmp_path, capsys):
    shop(tmp_path)
    files = {name: tmp_path / f"{name}.parquet" for name in ("items", "events")}
    first = import_catalog(files, tmp_path / "c")
    stamp = (tmp_path / "c" / "manifest.json").stat().st_mtime_ns
    assert import_catalog(files, tmp_path / "c").digest == first.digest
    assert (tmp_path / "c" / "manifest.json").stat().st_mtime_ns == stamp
    assert import_catalog(files, tmp_path / "c", force=True).digest == first.digest
    assert (tmp_path / "c" / "manifest.json").stat().st_mtime_ns != stamp
    put(files["items"], **{**ITEMS, "title": ["new", "b", "c", "d"]})
    assert import_catalog(files, tmp_path / "c").digest != first.digest


def test_flipped_bit_is_refused(tmp_path):
    shop(tmp_path)
    import_catalog({"items": tmp_path / "items.parquet"}, tmp_path / "c")
    file = tmp_path / "c" / "items.parquet"
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        Catalog.load(tmp_path / "c")


def test_k_core_and_rating(tmp_path):
    events = {
        "user_id": ["u", "u", "v", "v", "w", "w", "x"],
        "item_id": ["a", "b", "a", "b", "b", "c", "a"],
        "timestamp": [1, 2, 3, 4, 5, 6, 7],
        "rating": [5, 5, 5, 5, 5, 5, 1],
    }
    users = {"user_id": ["u", "w", "x"], "age": [1, 2, 3]}
    shop(tmp_path, events=events, users=users)
    files = {name: tmp_path / f"{name}.parquet" for name in ("items", "events", "users")}
    catalog = import_catalog(files, tmp_path / "c", ImportConfig(k_core=2, min_rating=2))
    assert catalog.items.ids == ["a", "b"]
    assert catalog.events.user_ids == ["u", "v"]  # c has one event, then w has one
    assert len(catalog.events) == 4
    assert catalog.users is not None
    assert catalog.users["user_id"].to_pylist() == ["u"]
    report = read_report(tmp_path / "c")
    assert report.find("low_rating") == 1
    assert report.find("k_core") == 4
    assert not report.problems


def test_in_memory_catalog_needs_no_file():
    items = Items(table=pa.table(ITEMS))
    catalog = Catalog(items=items, events=Events.of([0, 0], [1, 2], [1, 2]))
    assert catalog.profile_of(0) == {}
    assert catalog.digest == ""
    assert items.select(pa.array([2])).ids == ["c"]


MEASURE = """
import resource, sys
from pathlib import Path
from genrecall.catalog.store import import_catalog
directory = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
catalog = import_catalog({name: directory / f"{name}.parquet" for name in ("items", "events")}, directory / "c")
print(len(catalog.events), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_memory_of_an_import_is_bounded(tmp_path):
    """300,000 events within 400 bytes each on top of the interpreter: 10 million stay under 4 GB."""
    count, rng = 300_000, np.random.default_rng(0)
    ids = [f"item-{number:06d}" for number in range(20_000)]
    put(tmp_path / "items.parquet", item_id=ids, title=[f"Thing {name}" for name in ids])
    numbers = rng.integers(0, 20_000, count)
    table = {
        "user_id": [f"user-{number:08d}" for number in rng.integers(0, 50_000, count)],
        "item_id": [ids[number] for number in numbers],
        "timestamp": NOW - rng.integers(0, 10**7, count),
    }
    pq.write_table(pa.table(table), tmp_path / "events.parquet")
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    events, used = map(int, done.stdout.split())
    assert events > 299_000
    assert used / count < 400
