"""The wire format: every body is a request within its bounds, or a problem with a code."""

import json
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrecall.serve.http.body import decoded
from genrecall.serve.problems import RETRYABLE, STATUS, Problem
from genrecall.serve.schema import MAX_BEAM, MAX_K, Events, Recommend, Search

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
fields = st.sampled_from(
    [
        "user_id",
        "history",
        "k",
        "beam",
        "channels",
        "filters",
        "exclude",
        "profile",
        "deadline_ms",
        "query",
        "events",
        "explain",
    ]
)


T = TypeVar("T")


def _read(body: bytes, kind: type[T]) -> T | str:
    """The request, or the code of the problem; any other exception is a fault."""
    try:
        return decoded(body, kind)
    except Problem as problem:
        return problem.code


@given(st.dictionaries(fields, values, max_size=6))
def test_any_object_is_a_request_or_a_problem(body: dict[str, object]) -> None:
    for kind in (Recommend, Search, Events):
        found: Recommend | Search | Events | str = _read(json.dumps(body).encode(), kind)
        if isinstance(found, str):
            assert found in ("invalid", "malformed")
        elif isinstance(found, Recommend | Search):
            assert 1 <= found.k <= MAX_K
            assert found.beam is None or 1 <= found.beam <= MAX_BEAM
            assert "\0" not in (found.user_id or "")


@given(st.binary(max_size=100))
def test_any_bytes_are_a_request_or_a_problem(body: bytes) -> None:
    assert _read(body, Recommend) in ("invalid", "malformed") or b"{" in body


def test_deep_nesting_is_a_problem() -> None:
    with pytest.raises(Problem, match=r"malformed|invalid"):
        decoded(b'{"history":' * 100_000, Recommend)
    with pytest.raises(Problem, match=r"malformed|invalid"):
        decoded(b'{"filters":' + b"[" * 200_000, Recommend)


def test_every_code_has_a_document() -> None:
    for code in STATUS:
        told = json.loads(Problem(code, "why").document("r1"))
        assert told["type"].endswith(code)
        assert told["retryable"] == (code in RETRYABLE)
