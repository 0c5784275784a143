"""A catalog that goes on: nothing that was known moves, repeats count once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrecall.catalog.config import ImportConfig
from genrecall.catalog.events import KINDS
from genrecall.catalog.extend import extend_catalog
from genrecall.catalog.store import Catalog, import_catalog, read_report
from genrecall.errors import DataError
from tests import synthetic


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    source = synthetic.write(tmp_path_factory.mktemp("extend"), users=6, items=10, events=5)
    files = {name: source / f"{name}.parquet" for name in ("items", "events", "users")}
    return import_catalog(files, source / "catalog")


def _file(path: Path, **columns: list[object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_known_items_and_events_stay_where_they_were(before: Catalog, tmp_path: Path) -> None:
    late = 1_700_000_000
    events = _file(
        tmp_path / "e.parquet",
        user_id=["u1", "new", "u1"], item_id=["i3", "fresh", "nowhere"], timestamp=[late, late + 1, late + 2],
    )  # fmt: skip
    items = _file(tmp_path / "i.parquet", item_id=["i2", "fresh"], title=["renamed", "a new thing"], price=[1.5, 2.5])
    users = _file(tmp_path / "u.parquet", user_id=["new"], country=["Chile"])
    after = extend_catalog(before, tmp_path / "c", events=events, items=items, users=users)
    assert after.items.ids == [*before.items.ids, "fresh"]
    assert after.items.titles[2] == "renamed"
    assert after.items.titles[3] == before.items.titles[3]
    assert len(after.events) == len(before.events) + 2  # the event on an unknown item is counted, not kept
    assert after.profile_of(after.user_index["new"]) == {"country": "Chile"}
    assert after.profile_of(after.user_index["u1"]) == before.profile_of(before.user_index["u1"])
    for user in before.events.user_ids:
        old = before.events.histories().of(before.user_index[user])
        new = after.events.histories("keep").of(after.user_index[user])
        expected = [*before.events.histories("keep").of(before.user_index[user]), *([3] if user == "u1" else [])]
        assert new.tolist() == expected
        assert len(old) <= len(new)


def test_the_same_events_again_change_nothing(before: Catalog, tmp_path: Path) -> None:
    ids = before.items.ids
    events = before.events
    again = _file(
        tmp_path / "e.parquet",
        user_id=[events.user_ids[user] for user in events.user],
        item_id=[ids[item] for item in events.item],
        timestamp=events.time.tolist(),
        event=["click"] * len(events),
    )
    after = extend_catalog(before, tmp_path / "c", events=again)
    np.testing.assert_array_equal(after.events.item, events.item)
    np.testing.assert_array_equal(after.events.time, events.time)
    stamp = (tmp_path / "c" / "manifest.json").stat().st_mtime_ns
    extend_catalog(before, tmp_path / "c", events=again)
    assert (tmp_path / "c" / "manifest.json").stat().st_mtime_ns == stamp


def test_events_without_a_comparable_time_are_refused(before: Catalog, tmp_path: Path) -> None:
    events = _file(tmp_path / "e.parquet", user_id=["u1"], item_id=["i1"], order=[7])
    with pytest.raises(DataError, match="lack a column"):
        extend_catalog(before, tmp_path / "c", events=events)


def test_later_files_are_read_as_the_first_were(tmp_path: Path) -> None:
    """Columns under other names, milliseconds, and ratings below the least one: also in the extension's extension."""
    settings = ImportConfig(
        columns={"item_id": "asin", "title": "name"}, time_unit="ms", min_rating=4, event_default="order"
    )
    items = _file(tmp_path / "items.parquet", asin=["a", "b"], name=["red", "blue"])

    def events(name: str, *rows: tuple[str, int, float]) -> Path:
        asins, seconds, ratings = (list(column) for column in zip(*rows, strict=True))
        times = [1_700_000_000_000 + 1000 * second for second in seconds]
        return _file(tmp_path / name, user_id=["u"] * len(rows), asin=asins, timestamp=times, rating=ratings)

    files = {"items": items, "events": events("e0.parquet", ("a", 0, 5.0))}
    catalog = import_catalog(files, tmp_path / "c0", settings)
    fresh = _file(tmp_path / "i1.parquet", asin=["c"], name=["green"])
    catalog = extend_catalog(
        catalog, tmp_path / "c1", events=events("e1.parquet", ("b", 1, 4.0), ("c", 2, 1.0)), items=fresh
    )
    assert catalog.items.titles == ["red", "blue", "green"]
    catalog = extend_catalog(catalog, tmp_path / "c2", events=events("e2.parquet", ("c", 3, 5.0), ("a", 4, 2.0)))
    # A service's own log has our names, times and no ratings.
    log = pa.table({"user_id": ["u"], "item_id": ["a"], "event": ["click"],
                    "timestamp": pa.array([1_700_000_005], pa.timestamp("s"))})  # fmt: skip
    pq.write_table(log, tmp_path / "log.parquet")
    catalog = extend_catalog(catalog, tmp_path / "c3", events=tmp_path / "log.parquet")
    assert catalog.events.item.tolist() == [0, 1, 2, 0]
    assert (catalog.events.time - 1_700_000_000).tolist() == [0, 1, 3, 5]
    assert [KINDS[kind] for kind in catalog.events.kind] == ["order", "order", "order", "click"]


def test_known_events_count_once_though_their_sessions_have_other_names(tmp_path: Path) -> None:
    names = ["visit-a", "visit-a", "visit-b"]
    rows = {"user_id": ["u"] * 3, "item_id": ["a", "b", "a"], "timestamp": [10, 11, 500], "session_id": names}
    files = {
        "items": _file(tmp_path / "i.parquet", item_id=["a", "b"], title=["red", "blue"]),
        "events": _file(tmp_path / "e.parquet", **rows),
    }
    known = import_catalog(files, tmp_path / "c0")
    more = _file(
        tmp_path / "more.parquet", user_id=["u"] * 4, item_id=["a", "b", "a", "b"], timestamp=[10, 11, 500, 900],
        session_id=[*names, "0"], event=["view", "click", None, "click"],
    )  # fmt: skip
    after = extend_catalog(known, tmp_path / "c1", events=more)
    assert after.events.time.tolist() == [10, 11, 500, 900]


def test_items_may_come_alone(before: Catalog, tmp_path: Path) -> None:
    items = _file(tmp_path / "i.parquet", item_id=["fresh"], title=["a new thing"])
    after = extend_catalog(before, tmp_path / "c", items=items)
    assert after.items.ids == [*before.items.ids, "fresh"]
    np.testing.assert_array_equal(after.events.item, before.events.item)


@pytest.mark.parametrize("name", ["items", "users"])
def test_ids_that_repeat_are_refused_as_by_an_import(before: Catalog, tmp_path: Path, name: str) -> None:
    rows = {"items": {"item_id": ["fresh", "fresh"], "title": ["one", "two"]},
            "users": {"user_id": ["new", "new"], "country": ["Chile", "Peru"]}}[name]  # fmt: skip
    with pytest.raises(DataError, match="repeats") as error:
        extend_catalog(before, tmp_path / "c", **{name: _file(tmp_path / "rows.parquet", **rows)})
    assert error.value.seen.startswith("1 rows too many")


def test_the_first_of_repeated_items_stays_where_the_import_kept_it(before: Catalog, tmp_path: Path) -> None:
    files = {"items": _file(tmp_path / "i0.parquet", item_id=["a", "b"], title=["red", "blue"])}
    known = import_catalog(files, tmp_path / "c0", ImportConfig(first_of_duplicate_items=True))
    ids, titles = ["c", "b", "c", None, None, "c"], ["green", "azure", "lime", "grey", "pink", "jade"]
    after = extend_catalog(known, tmp_path / "c1", items=_file(tmp_path / "i1.parquet", item_id=ids, title=titles))
    assert after.items.titles == ["red", "azure", "green"]
    report = read_report(tmp_path / "c1")
    assert (report.find("duplicate_item"), report.find("item_without_id")) == (2, 2)


def test_new_items_need_ids(before: Catalog, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item_id"):
        extend_catalog(before, tmp_path / "c", items=_file(tmp_path / "i.parquet", title=["one"]))
