"""Whose request it is, and that every user has one home."""

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from genrecall.serve.cluster.routing import home_of, merged, route
from genrecall.serve.problems import Problem


@given(st.text(max_size=20), st.integers(1, 40))
def test_a_new_replica_takes_users_and_moves_no_others(user: str, replicas: int) -> None:
    before, after = home_of(user, replicas), home_of(user, replicas + 1)
    assert 0 <= before < replicas
    assert after in (before, replicas)


def test_homes_are_even() -> None:
    counts = [0] * 8
    for number in range(8000):
        counts[home_of(f"user {number}", 8)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommend", {"user_id": "ann"}),
        ("/v1/search", {"user_id": "ann", "query": "x"}),
        ("/v1/chat/completions", {"user": "ann"}),
        ("/v1/models/pipeline:predict", {"instances": [{"user_id": "ann"}, {"history": ["a"]}]}),
        ("/v1/models/pipeline:predict", {"inputs": {"user_id": ["ann", "ann"]}}),
        ("/v2/models/pipeline/infer", {"inputs": [{"name": "user_id", "data": ["ann"]}, {"name": "k", "data": [3]}]}),
    ],
)
def test_a_user_is_found_in_every_dialect(path: str, body: object) -> None:
    for _ in range(8):
        assert route("POST", path, json.dumps(body).encode(), 16).home == home_of("ann", 16)


def test_events_are_divided_and_keep_their_ids() -> None:
    events = [{"user_id": f"u{n}", "item_id": "i"} for n in range(20)] + [{"user_id": "u0", "event_id": "own"}]
    found = route("POST", "/v1/events", json.dumps({"events": events}).encode(), 4, key="k")
    assert found.bodies is not None
    divided = {home: json.loads(body)["events"] for home, body in found.bodies.items()}
    assert sum(map(len, divided.values())) == 21
    for home, part in divided.items():
        assert {home_of(event["user_id"], 4) for event in part} == {home}
    ids = {event["event_id"] for part in divided.values() for event in part}
    assert ids == {f"k#{n}" for n in range(20)} | {"own"}
    part = {"accepted": 2, "duplicates": 1, "unknown_items": 0, "sequence": 9}
    assert merged([part, {**part, "sequence": 4}]) == {**part, "accepted": 4, "duplicates": 2, "sequence": 9}


def test_users_of_several_homes_are_refused() -> None:
    rows = {"instances": [{"user_id": f"u{n}"} for n in range(20)]}
    with pytest.raises(Problem):
        route("POST", "/v1/models/pipeline:predict", json.dumps(rows).encode(), 4)
    assert route("GET", "/v1/users/a%2Fb", b"", 9).home == home_of("a/b", 9)
    assert route("GET", "/health/ready", b"", 3).kind == "all"
    assert route("GET", "/v1/explain/1", b"", 3).kind == "first"


PATHS = ("/v1/recommend", "/v1/events", "/v1/chat/completions", "/v1/models/x:predict", "/v2/models/x/infer")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["user_id", "user", "events", "inputs", "instances", "name", "data", "parameters"]), inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    st.sampled_from(PATHS),
    JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30),
    st.integers(1, 9),
)
@example("/v2/models/x/infer", b'{"inputs": true}', 2)
def test_any_body_goes_somewhere_or_is_refused(path: str, body: bytes, replicas: int) -> None:
    with contextlib.suppress(Problem):
        found = route("POST", path, body, replicas, key="k")
        homes = found.bodies if found.bodies is not None else {found.home: b""}
        assert all(0 <= home < replicas for home in homes)
