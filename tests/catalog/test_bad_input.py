"""Every kind of bad input, through the verb: a four-part error and exit status 2, or a counted finding."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrecall.catalog.store import Catalog, import_catalog
from tests.catalog.files import EVENTS, ITEMS, NOW, put, run, shop


def changed(table, **columns):
    return {**table, **columns}


def without(table, name):
    return {key: values for key, values in table.items() if key != name}


REFUSED = {
    "no item_id": (without(ITEMS, "item_id"), EVENTS, "has no column item_id", "--map item_id="),
    "no title": (
        {"item_id": ["a"], "price": [1.0], "keywords": ["cup"]},
        EVENTS,
        "has no column title",
        "--map title=keywords",
    ),
    "no user_id": (ITEMS, without(EVENTS, "user_id"), "has no column user_id", "--map user_id="),
    "no time": (ITEMS, without(EVENTS, "timestamp"), "has no column timestamp", "--map timestamp="),
    "title of bytes": (changed(ITEMS, title=[b"cup"] * 4), EVENTS, "column title", "--map title="),
    "title of numbers": (changed(ITEMS, title=[1, 2, 3, 4]), EVENTS, "column title", "--map title="),
    "ids of floats": (ITEMS, changed(EVENTS, user_id=[1.5] * 6), "column user_id", "--map user_id="),
    "time of text": (ITEMS, changed(EVENTS, timestamp=["then"] * 6), "column timestamp", "--map timestamp="),
    "order of floats": (
        ITEMS,
        {**without(EVENTS, "timestamp"), "order": [0.5] * 6},
        "column order",
        "--map order=",
    ),
    "price of flags": (changed(ITEMS, price=[True] * 4), EVENTS, "column price", "--map price="),
    "event of numbers": (ITEMS, changed(EVENTS, event=[1] * 6), "column event", "--map event="),
    "no rows of items": (
        {"item_id": pa.array([], "string"), "title": pa.array([], "string")},
        EVENTS,
        "is empty",
        "file",
    ),
    "no rows of events": (
        ITEMS,
        {name: pa.array([], "string" if name != "timestamp" else "int64") for name in EVENTS},
        "is empty",
        "file",
    ),
    "duplicate ids": (changed(ITEMS, item_id=["a", "b", "a", "d"]), EVENTS, "repeats item_id", "--first-item"),
    "milliseconds": (
        ITEMS,
        changed(EVENTS, timestamp=[(NOW - age) * 1000 for age in range(6)]),
        "look like milliseconds",
        "--time-unit ms",
    ),
    "dates as numbers": (
        ITEMS,
        changed(EVENTS, timestamp=[20231115 + day for day in range(6)]),
        "look like dates",
        "forms",
    ),
    "only unknown items": (ITEMS, changed(EVENTS, item_id=["x"] * 6), "no event", "same item ids"),
    "ids that are empty": (changed(ITEMS, item_id=[""] * 4), EVENTS, "no row", "column"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("verb", ["validate", "import"])
def test_refused_with_four_parts(case, verb, tmp_path):
    items, events, what, fix = REFUSED[case]
    directory = shop(tmp_path / "in", items, events)
    place = ("--out", tmp_path / "catalog") if verb == "import" else ()
    status, _, error = run(verb, directory, *place)
    assert status == 2
    lines = error.splitlines()
    assert what in lines[0]
    assert [line.split(":")[0].strip() for line in lines[-3:]] == ["seen", "allowed", "do"]
    assert fix in lines[-1]
    assert not (tmp_path / "catalog").exists()


COUNTED = {
    "unknown_item": (ITEMS, changed(EVENTS, item_id=["a", "b", "x", "a", "c", "d"])),
    "future": (ITEMS, changed(EVENTS, timestamp=[10, 20, NOW + 10**7, 11, 22, 33])),
    "event_without_time": (ITEMS, changed(EVENTS, timestamp=[10, 20, None, 11, 22, 33])),
    "event_without_user": (ITEMS, changed(EVENTS, user_id=["u", "u", "", "v", "v", "v"])),
    "event_without_item": (ITEMS, changed(EVENTS, item_id=["a", "b", None, "a", "c", "d"])),
    "unknown_kind": (ITEMS, changed(EVENTS, event=["click", "order", "sneeze", None, "", "cart"])),
    "unknown_split": (ITEMS, changed(EVENTS, split=["train", "valid", "holdout", "train", "train", "test"])),
    "duplicate_event": (ITEMS, {name: [*values, values[-1]] for name, values in EVENTS.items()}),
    "unsorted": (ITEMS, changed(EVENTS, timestamp=[10, 30, 20, 11, 22, 33])),
    "single_event_user": (ITEMS, changed(EVENTS, user_id=["u", "u", "u", "v", "v", "w"])),
    "empty_title": (changed(ITEMS, title=["Red cup", " ", "Green cup", "Pot"], brand=["x", "y", "", None]), EVENTS),
    "item_without_text": (changed(ITEMS, title=["Red cup", None, "Green cup", "Pot"]), EVENTS),
    "item_without_id": (
        {"item_id": ["a", "b", "c", "d", None], "title": [*ITEMS["title"], "Nameless"]},
        EVENTS,
    ),
    "unreadable_price": (changed(ITEMS, price=["$1,299.50", "ask", "3", None]), EVENTS),
}
KEPT = {"unsorted", "single_event_user", "empty_title", "item_without_text", "item_without_id"}


@pytest.mark.parametrize("case", COUNTED)
def test_counted_with_examples_and_refused_when_strict(case, tmp_path):
    directory = shop(tmp_path, *COUNTED[case])
    status, output, _ = run("validate", directory, "--json")
    assert status == 0
    report = json.loads(output)
    found = {finding["name"]: finding for finding in report["findings"] if finding["problem"]}
    assert list(found) == [case]
    assert found[case]["count"] == 1
    assert len(found[case]["examples"]) == 1
    assert found[case]["action"]
    left_out = 0 if case in KEPT or case == "unreadable_price" else 1
    assert report["counts"]["events read"] - report["counts"]["events"] == left_out
    status, _, error = run("validate", directory, "--strict")
    assert status == 2
    assert found[case]["what"] in error
    status, _, _ = run("import", directory, "--strict", "--out", tmp_path / "catalog")
    assert status == 2
    assert not (tmp_path / "catalog").exists()


def test_clean_input_is_clean(tmp_path):
    status, output, _ = run("validate", shop(tmp_path), "--strict")
    assert status == 0
    assert "problems: none" in output


def test_milliseconds_are_converted_when_said(tmp_path):
    shop(tmp_path, events=changed(EVENTS, timestamp=[(NOW - 6 + age) * 1000 for age in range(6)]))
    status, output, _ = run("validate", tmp_path, "--time-unit", "ms", "--strict", "--json")
    assert status == 0
    assert json.loads(output)["counts"]["events"] == 6
    status, _, error = run("validate", tmp_path, "--time-unit", "us")
    assert status == 2
    assert "--time-unit ms" in error


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_one_time_that_is_no_number_says_nothing_of_the_unit(bad, tmp_path):
    shop(tmp_path, events=changed(EVENTS, timestamp=[10.0, 20.0, bad, 11.0, 22.0, 33.0]))
    status, output, error = run("validate", tmp_path, "--json")
    assert status == 0, error
    found = {entry["name"]: entry["count"] for entry in json.loads(output)["findings"] if entry["problem"]}
    assert found == {"future" if bad == 1e300 else "event_without_time": 1}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("form", "zone"), [("%Y-%m-%dT%H:%M:%S", ""), ("%Y-%m-%d %H:%M:%S", "+08:00"), ("%Y-%m-%dT%H:%M:%S.123456789", "Z")]
)
def test_iso_times_are_read_with_and_without_a_zone(form, zone, suffix, tmp_path):
    begin = datetime(2026, 1, 31, 4, tzinfo=UTC)
    times = [(begin + timedelta(hours=hour)).strftime(form) + zone for hour in range(6)]
    items, events = tmp_path / "items.parquet", put(tmp_path / f"events.{suffix}", **changed(EVENTS, timestamp=times))
    catalog = import_catalog({"items": put(items, **ITEMS), "events": events}, tmp_path / "catalog")
    first = int(begin.timestamp()) - (8 * 3600 if zone == "+08:00" else 0)
    assert catalog.events.time.tolist() == [first + 3600 * hour for hour in range(6)]


def test_iso_times_of_which_some_have_a_zone_are_refused(tmp_path):
    times = ["2026-01-31T04:00:00Z"] * 5 + ["2026-01-31T05:00:00"]
    status, _, error = run("validate", shop(tmp_path, events=changed(EVENTS, timestamp=times)))
    assert status == 2
    assert "2026-01-31T0" in error
    assert "ISO 8601" in error


@pytest.mark.parametrize(
    ("text", "price"),
    [("-5", -5.0), ("-$1,299.50", -1299.5), ("1.299,50 €", 1299.5), ("12,5", 12.5), ("1,299", 1299.0), ("3 - 4", 3.0)],
)
def test_prices_of_text(text, price, tmp_path):
    items = put(tmp_path / "items.parquet", **changed(ITEMS, price=[text] * 4))
    catalog = import_catalog({"items": items}, tmp_path / "catalog")
    assert catalog.items.table["price"].to_pylist() == [price] * 4


def test_decimals_and_lists_of_fixed_size_are_numbers(tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8.0)), 2)
    columns = changed(ITEMS, price=pa.array([1, 2, 3, 4]).cast(pa.decimal128(21, 2)), image_vector=vectors)
    catalog = import_catalog({"items": put(tmp_path / "items.parquet", **columns)}, tmp_path / "catalog")
    assert catalog.items.table["price"].to_pylist() == [1.0, 2.0, 3.0, 4.0]
    assert catalog.items.table["image_vector"].to_pylist()[3] == [6.0, 7.0]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_two_columns_of_one_name_are_refused(suffix, tmp_path):
    path = tmp_path / f"items.{suffix}"
    if suffix == "csv":
        path.write_text("item_id,title,title\na,b,c\n")
    else:
        pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["item_id", "title", "title"]), path)
    status, _, error = run("validate", "--items", path)
    assert status == 2
    assert "two columns of one name" in error


def test_times_beyond_64_bits_are_refused(tmp_path):
    shop(tmp_path, events={**without(EVENTS, "timestamp"), "order": pa.array([2**63, 1, 2, 3, 4, 5], pa.uint64())})
    status, _, error = run("validate", tmp_path)
    assert status == 2
    assert "column order" in error


def test_items_without_text_can_be_left_out(tmp_path):
    pairs = {"query_id": ["q", "q"], "item_id": ["b", "a"]}
    items = changed(ITEMS, title=["Red cup", None, "Green cup", ""], brand=["", " ", "x", "y"])
    events = {name: [*values, more] for (name, values), more in zip(EVENTS.items(), ("w", "b", 40), strict=True)}
    shop(tmp_path, items, events, queries={"query_id": ["q"], "query": ["cups"]}, query_items=pairs)
    status, output, _ = run("validate", tmp_path)
    assert "1 items without any text: kept" in output
    assert "--drop-textless" in output
    status, output, _ = run("import", tmp_path, "--drop-textless", "--out", tmp_path / "catalog", "--json")
    assert status == 0
    report = json.loads(output)["report"]
    found = {entry["name"]: entry["count"] for entry in report["findings"]}
    assert found["textless_item"] == 1
    assert found["textless_event"] == 2
    assert "item_without_text" not in found
    assert report["counts"]["events read"] - report["counts"]["events"] == 2
    catalog = Catalog.load(tmp_path / "catalog")
    assert catalog.items.ids == ["a", "c", "d"]
    assert catalog.events.user_ids == ["u", "v"]  # w did nothing else
    assert [catalog.items.ids[item] for item in catalog.events.item] == ["a", "c", "a", "c", "d"]
    assert catalog.query_items is not None
    assert catalog.query_items["item_id"].to_pylist() == ["a"]


def test_nothing_left_without_textless_items(tmp_path):
    shop(tmp_path, changed(ITEMS, title=[""] * 4))
    status, _, error = run("validate", tmp_path, "--drop-textless")
    assert status == 2
    assert "nothing is left" in error


def test_first_of_repeated_items_can_be_kept(tmp_path):
    shop(tmp_path, items=changed(ITEMS, item_id=["a", "b", "a", "d"]), events=changed(EVENTS, item_id=list("abdabd")))
    status, output, _ = run("validate", tmp_path, "--first-item")
    assert status == 0
    assert "1 rows that repeat an item_id: the first row kept" in output


def test_unused_columns_and_files_are_listed(tmp_path):
    shop(tmp_path, events=changed(EVENTS, quantity=[1] * 6), notes={"x": [1]})
    _, output, _ = run("validate", tmp_path)
    assert "quantity of events.parquet" in output
    assert "notes.parquet" in output


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--map", "title"], "--map cannot be read"),
        (["--map", "title=nothing"], "no table has the column nothing"),
        (["--map", "title=x", "--map", "item_id=x"], "mapped twice"),
        (["--event-default", "sneeze"], "unknown kind of event"),
        (["--time-unit", "h"], "unknown unit of time"),
        (["--k-core", "-1"], "k-core below zero"),
        (["--k-core", "9"], "nothing is left of the 9-core"),
        (["--source", "excel"], "unknown source"),
        (["--source", "movielens"], "no MovieLens folder"),
        (["--items", "nowhere.parquet"], "there is no file"),
        (["--min-rating", "4"], "has no column rating"),
    ],
)
def test_options_that_cannot_be(arguments, what, tmp_path):
    status, _, error = run("validate", shop(tmp_path), *arguments)
    assert status == 2
    assert what in error


def test_paths_that_cannot_be(tmp_path):
    assert "there is no directory" in run("validate", tmp_path / "no")[2]
    assert "there is no file of items" in run("validate", tmp_path)[2]
    assert "seen:    a directory" in run("validate", "--items", tmp_path)[2]
    (tmp_path / "items.parquet").write_bytes(b"PAR1 but not really")
    assert "no Parquet file" in run("validate", tmp_path)[2]
    (tmp_path / "items.parquet").write_bytes(b"")
    assert "is empty" in run("validate", tmp_path)[2]
    (tmp_path / "items.csv").write_text("item_id,title\na,b\n")
    assert "two files for items" in run("validate", tmp_path)[2]
    (tmp_path / "items.xls").write_text("x")
    assert "unknown format" in run("validate", "--items", tmp_path / "items.xls")[2]


def test_bad_users_queries_and_pairs(tmp_path):
    users = {"user_id": ["u", "", "z"], "country": ["DE", "FR", None]}
    queries = {"query_id": ["q", "r"], "query": ["cups", None]}
    pairs = {"query_id": ["q", "q", "x"], "item_id": ["a", "gone", "a"]}
    shop(tmp_path, users=users, queries=queries, query_items=pairs)
    found = {entry["name"]: entry["count"] for entry in json.loads(run("validate", tmp_path, "--json")[1])["findings"]}
    assert found == {
        "user_without_id": 1,
        "query_without_text": 1,
        "unknown_pair": 2,
        "user_without_profile": 1,
        "user_without_events": 1,
    }
    put(tmp_path / "users.parquet", user_id=["u", "u"])
    assert "repeats user_id" in run("validate", tmp_path)[2]
