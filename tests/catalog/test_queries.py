import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.catalog.events import Events
from genrecall.catalog.histories import offsets_of
from genrecall.catalog.queries import SearchCases, read_search_cases, search_cases
from genrecall.catalog.store import import_catalog
from genrecall.errors import ConfigError, DataError
from tests.catalog.files import put, shop

QUERIES = {"query_id": ["q1", "q2", "q3"], "query": ["cup", "tea", "sofa"]}
PAIRS = {"query_id": ["q1", "q1", "q2", "q1"], "item_id": ["c", "a", "d", "a"]}


def catalog_of(directory, queries=QUERIES, pairs=PAIRS):
    shop(directory, queries=queries, query_items=pairs)
    tables = ("items", "events", "queries", "query_items")
    return import_catalog({name: directory / f"{name}.parquet" for name in tables}, directory / "catalog")


def test_cases_of_a_catalog(tmp_path):
    cases = search_cases(catalog_of(tmp_path))
    assert cases.texts == ["cup", "tea"]
    assert [cases.relevant(q).tolist() for q in range(2)] == [[0, 2], [3]]
    assert cases.part == "test"
    assert cases.left_out == {"queries without any item of the catalog": 1, "repeated query-item pairs": 1}


def test_what_an_import_left_out_is_counted(tmp_path):
    pairs = {"query_id": ["q1", "q9", "q2"], "item_id": ["a", "a", "unknown"]}
    cases = search_cases(catalog_of(tmp_path, pairs=pairs))
    assert cases.left_out["query-item pairs with an unknown query or item"] == 2


def test_files_with_unknown_items_are_refused_or_counted(tmp_path):
    items = catalog_of(tmp_path / "shop").items
    queries = put(tmp_path / "q.parquet", **QUERIES)
    pairs = put(tmp_path / "qi.parquet", query_id=["q1", "q2"], item_id=["a", "zzz"])
    with pytest.raises(DataError, match="1 query-item pairs with an unknown query or item") as refused:
        read_search_cases(queries, pairs, items)
    assert "zzz" in refused.value.seen
    cases = read_search_cases(queries, pairs, items, leave_out_unknown=True)
    assert cases.query_ids == ["q1"]
    assert cases.left_out == {
        "query-item pairs with an unknown query or item": 1,
        "queries without any item of the catalog": 2,
    }


def test_catalogs_and_files_without_queries_are_refused(tmp_path):
    shop(tmp_path)
    files = {name: tmp_path / f"{name}.parquet" for name in ("items", "events")}
    catalog = import_catalog(files, tmp_path / "catalog")
    with pytest.raises(DataError, match="no search queries"):
        search_cases(catalog)
    pairs = put(tmp_path / "qi.parquet", query_id=["q1"], item_id=["zzz"])
    with pytest.raises(DataError, match="no query has a relevant item"):
        read_search_cases(put(tmp_path / "q.parquet", **QUERIES), pairs, catalog.items, leave_out_unknown=True)


relevance = st.lists(st.sets(st.integers(0, 20), min_size=1, max_size=6), min_size=2, max_size=12)


def of(sets):
    rows = [sorted(row) for row in sets]
    return SearchCases(
        query_ids=[str(n) for n in range(len(rows))],
        texts=[f"text {n}" for n in range(len(rows))],
        offsets=offsets_of(np.array([len(row) for row in rows])),
        items=np.array([item for row in rows for item in row], np.int32),
    )


@given(relevance, st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_parts_divide_the_queries(sets, seed):
    cases = of(sets)
    valid, test = cases.divide(seed=seed)
    assert sorted(valid.texts + test.texts) == sorted(cases.texts)
    assert (valid.part, test.part) == ("validation", "test")
    for part in (valid, test):
        for query, name in enumerate(part.query_ids):
            np.testing.assert_array_equal(part.relevant(query), cases.relevant(int(name)))
    with pytest.raises(ConfigError, match="leaves no query"):
        cases.divide(valid_share=0.0)


def test_frequencies_by_events_and_by_log():
    cases = of([{0, 2}, {1}])
    assert cases.frequencies(np.array([5, 0, 7])).tolist() == [12, 0]
    events = Events(
        user=np.zeros(3, np.int32),
        item=np.full(3, -1, np.int32),
        time=np.arange(3),
        kind=np.full(3, 4, np.uint8),
        user_ids=["u"],
        timed=True,
        query=np.array([0, 0, -1], np.int32),
        query_texts=["text 1"],
    )
    assert cases.asked(events).tolist() == [0, 2]
    assert cases.asked(Events.of([0], [0], [0])).tolist() == [0, 0]
