"""What a query loses on its way to another process: nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrecall.engine.worker.frames import Frame
from genrecall.recall.channel import Query
from genrecall.recall.generative import _FEW, _membership
from genrecall.serve.worker.messages import arrays_of, query_of

_HEAD = {"profile": {}, "text": None}


@given(st.lists(st.integers(0, 3000), max_size=60), st.integers(0, 3000), st.integers(0, 400))
def test_exclusions_come_back(seen, first, run):
    """A few items as they are; the many that a filter bars, as bits."""
    exclude = np.array([*seen, *range(first, first + run)], dtype=np.int32)
    arrays = arrays_of(Query(exclude=exclude))
    found = query_of(Frame(head=_HEAD, arrays=arrays)).exclude
    assert found.dtype == np.int32
    assert set(found.tolist()) == set(exclude.tolist())
    assert arrays["exclude"].nbytes <= 4 * len(exclude)


def test_a_filter_of_half_a_catalog_takes_a_bit_an_item():
    barred = np.arange(0, 100_000, 2, dtype=np.int32)
    assert arrays_of(Query(exclude=barred))["exclude"].nbytes == 12_500


def test_few_and_many_excluded_items_are_told_apart_alike():
    rng = np.random.default_rng(0)
    for count in (0, 5, _FEW + 1):
        excluded = rng.integers(0, 5000, count)
        belongs = _membership(excluded, 5000)
        assert [belongs(item) for item in range(5000)] == np.isin(np.arange(5000), excluded).tolist()
