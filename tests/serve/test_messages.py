"""What a query loses on its way to another process: nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrecall.engine.worker.frames import Frame
from genrecall.recall.channel import Barred, Query
from genrecall.serve.worker.messages import arrays_of, query_of

_HEAD = {"profile": {}, "text": None}


def arrived(query: Query) -> Query:
    return query_of(Frame(head=_HEAD, arrays=arrays_of(query)))


@given(st.lists(st.integers(0, 40), max_size=9), st.none() | st.lists(st.booleans(), min_size=1, max_size=41))
def test_exclusions_come_back(seen, available):
    rule = None if available is None else Barred(np.array(available))
    query = Query(exclude=np.array(seen, np.int32), barred=rule)
    found = arrived(query)
    assert found.excluded.tolist() == query.excluded.tolist()
    assert found.excluded.dtype == np.int32
    assert (found.available is None) == (available is None)
    assert available is None or found.available.tolist() == available


def test_requests_under_one_rule_share_what_is_made_of_it():
    available = np.random.default_rng(0).random(100_001) < 0.5
    first, second = (arrived(Query(exclude=np.array([user], np.int32), barred=Barred(available))) for user in (3, 5))
    assert first.barred is second.barred
    assert arrays_of(first)["barred"].nbytes == 12_501
    assert arrived(Query(barred=Barred(~available))).barred is not first.barred
