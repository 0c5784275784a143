from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.catalog.histories import offsets_of
from genrecall.catalog.queries import SearchCases
from genrecall.errors import ConfigError
from genrecall.eval.document import Table
from genrecall.eval.lock import Final
from genrecall.eval.report import evaluation_report, sections
from genrecall.eval.search import evaluate_search, search_gains
from genrecall.eval.store import load, save

from .test_harness import Fixed

KS = (2, 4)


def queries(relevant: list[list[int]], part: str = "validation", **left_out: int) -> SearchCases:
    return SearchCases(
        query_ids=[f"q{n}" for n in range(len(relevant))],
        texts=[f"text {n}" for n in range(len(relevant))],
        offsets=offsets_of(np.array([len(items) for items in relevant])),
        items=np.array([item for items in relevant for item in sorted(items)], np.int32),
        part=part,  # type: ignore[arg-type]
        left_out=left_out,
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=5, max_size=5), st.integers(0, 4)), min_size=1, max_size=6))
def test_metrics_equal_plain_loops(rows: list[tuple[list[bool], int]]) -> None:
    hits = np.array([row for row, _ in rows])
    relevant = np.maximum(hits.sum(1) + np.array([more for _, more in rows]), 1)
    found = search_gains(hits, relevant, KS)
    for row, count, gained in zip(hits.tolist(), relevant.tolist(), found.tolist(), strict=True):
        expected = []
        for k in KS:
            expected.append(sum(row[:k]) / count)
        for k in KS:
            expected.append(sum(row[:k]) / min(k, count))
        for k in KS:
            ideal = sum(1 / math.log2(place + 2) for place in range(min(k, count)))
            expected.append(sum(1 / math.log2(place + 2) for place in range(k) if row[place]) / ideal)
        for k in KS:
            expected.append(float(sum(row) >= k))
        assert gained == pytest.approx(expected, abs=1e-6)


def test_figures_by_hand_with_tiers(tmp_path: Path) -> None:
    asked = queries([[1, 2, 3], [4], [5, 6]], unusable=2)
    good = Fixed("good", [[1, 9, 2, 3], [4], [7, 8]])
    found = evaluate_search(
        [good, Fixed("bad", [[9]])],
        asked,
        num_items=10,
        train_counts=np.arange(10),
        frequencies=np.array([9, 1, 0]),
        frequency="clicks",
        ks=KS,
        k=5,
        batch=2,
        resamples=100,
    )
    result = found.results["good"]
    assert result.metrics["recall@2"].mean == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert result.metrics["capped@2"].mean == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert result.metrics["fill@2"].mean == pytest.approx(1 / 3)
    assert [query.text for query in good.asked] == ["text 0", "text 1", "text 2"]
    assert found.slice_sizes == {
        "relevant items": {"1-9": 3},
        "query frequency": {"head": 1, "tail": 1, "unseen": 1},
    }
    assert result.slices["query frequency"]["unseen"]["recall@2"].mean == 0
    for words in (
        "3 validation queries, 10 items",
        "67% of the queries have 2 relevant items",
        "frequency counts clicks",
        "2 unusable left out",
    ):
        assert words in found.sentence()
    page = evaluation_report(found, channel="good")
    assert "Capped recall@4" in page.to_markdown()
    assert "Fill@4 ± half the 95% interval" in page.to_markdown()
    assert "bootstrap over queries" in page.to_markdown()
    assert "<html" in page.to_html()
    tables = [block for section in sections(found, "good") for block in section.blocks if isinstance(block, Table)]
    assert all("search by the query's text" in table.caption.lower() for table in tables)
    save(found, tmp_path / "eval.json")
    again, _ = load(tmp_path / "eval.json")
    assert again.to_dict() == found.to_dict()


def test_test_queries_are_locked(tmp_path: Path) -> None:
    asked = queries([[1], [2]], part="test")
    settings = {"num_items": 5, "train_counts": np.ones(5), "ks": (2,), "k": 3, "resamples": 20}
    with pytest.raises(ConfigError, match="locked"):
        evaluate_search([Fixed("a", [[1]])], asked, **settings)  # type: ignore[arg-type]
    final = Final(run=tmp_path, purpose="a table")
    found = evaluate_search([Fixed("a", [[1]])], asked, final=final, **settings)  # type: ignore[arg-type]
    assert "2 final test queries" in found.sentence()
    assert found.readings == 1


def test_what_cannot_be_asked_is_refused() -> None:
    asked = queries([[1]])
    for ks, k in (((4, 2), 5), ((), 5), ((2, 9), 5)):
        with pytest.raises(ConfigError):
            evaluate_search([Fixed("a", [[1]])], asked, num_items=5, train_counts=np.ones(5), ks=ks, k=k)
