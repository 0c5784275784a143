"""Rows of features: against loops over the definition, alone and in batches, and after a way through parquet."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.errors import ConfigError
from genrecall.rank.affinity import affinity, sums
from genrecall.rank.columns import Asked, Ragged, number_of, pieces
from genrecall.rank.features import Rows
from genrecall.rank.hashing import code_of, fnv1a64
from genrecall.rank.lists import ListReader, Lists, ListWriter
from genrecall.rank.schema import (
    Affinity,
    Behaviour,
    Bucketed,
    Column,
    Crossed,
    Hashed,
    Logged,
    Schema,
    Vocabulary,
)
from tests.rank import worlds
from tests.rank.test_hashing import WORD, plain_mix

SCHEMA = worlds.SCHEMA


def told(name: str, request: int, item: int, asked: Asked) -> list[str] | float:
    """A column's values, by hand."""
    row = worlds.items().table.slice(item, 1).to_pylist()[0]
    history = asked.histories.values[asked.histories.offsets[request] : asked.histories.offsets[request + 1]]
    profile = asked.profiles[request]
    return {
        "user.id": lambda: [asked.users[request]] if asked.users[request] else [],
        "user.country": lambda: [profile["country"]] if "country" in profile else [],
        "user.age": lambda: number_of(profile.get("age")),
        "item.id": lambda: [row["item_id"]],
        "item.colours": lambda: [one for one in row["colours"].split("|") if one],
        "item.price": lambda: float("nan") if row["price"] is None else row["price"],
        "item.count": lambda: float(item),
        "history.last": lambda: [f"i{history[-1]}"] if len(history) else [],
        "history.length": lambda: float(len(history)),
    }[name]()


def bucket(feature: Bucketed, number: float) -> int:
    return 0 if not np.isfinite(number) else 1 + sum(edge <= number for edge in feature.edges)


def by_hand(feature: object, request: int, item: int, asked: Asked) -> list[int]:
    """A feature's rows, by the definition's loops."""
    if isinstance(feature, Behaviour):
        history = asked.histories.values[asked.histories.offsets[request] : asked.histories.offsets[request + 1]]
        like = SCHEMA.feature(feature.like)
        return [row for past in history[-feature.last :] for row in by_hand(like, request, int(past), asked)]
    if isinstance(feature, Bucketed):
        return [bucket(feature, told(feature.of, request, item, asked))]
    if isinstance(feature, Vocabulary):
        return [1 + int(value[1:]) for value in told(feature.of, request, item, asked)] or [0]
    assert isinstance(feature, Hashed | Crossed)
    parts = []
    for name in (feature.of,) if isinstance(feature, Hashed) else feature.of:
        if name in {f.name for f in SCHEMA.features}:
            part = SCHEMA.feature(name)
            assert isinstance(part, Bucketed)
            parts.append([plain_mix(bucket(part, told(part.of, request, item, asked)))])
        else:
            parts.append([plain_mix(fnv1a64(value.encode())) for value in told(name, request, item, asked)])
    rows = []
    for combination in product(*parts):
        folded = int(code_of(feature.name))
        for code in combination:
            folded = plain_mix(folded ^ code) & WORD
        rows.append(1 + folded % feature.buckets)
    return rows or [0]


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_are_those_of_the_definition(seed: int) -> None:
    asked = worlds.asked(9, seed)
    features = worlds.features()
    rows = features.of(asked)
    for feature in SCHEMA.features:
        bag = worlds.bag_of(features, rows, feature.name)
        if SCHEMA.of_item(feature):
            units = list(zip(asked.candidates.owner.tolist(), asked.candidates.values.tolist(), strict=True))
        else:
            units = [(request, 0) for request in range(len(asked))]
        assert len(bag) == len(units), feature.name
        for place, (request, item) in enumerate(units):
            found = bag.values[bag.offsets[place] : bag.offsets[place + 1]].tolist()
            assert found == by_hand(feature, request, item, asked), (feature.name, request, item)


def assert_equal_bits(one: Rows, other: Rows) -> None:
    for name, bag in one.bags.items():
        assert bag.values.tobytes() == other.bags[name].values.tobytes(), name
        assert bag.offsets.tobytes() == other.bags[name].offsets.tobytes(), name
    assert one.told.tobytes() == other.told.tobytes()
    assert one.state is not None
    assert other.state is not None
    assert one.state.tobytes() == other.state.tobytes()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_a_request_alone_has_the_bits_that_it_has_in_a_batch(seed: int, requests: int) -> None:
    whole, features = worlds.asked(requests, seed), worlds.features()
    rows = features.of(whole)
    for request in range(requests):
        own = features.of(worlds.alone(whole, request))
        for name, bag in rows.bags.items():
            units = np.array([request])
            if SCHEMA.of_item(SCHEMA.feature(name)):
                units = np.flatnonzero(whole.candidates.owner == request)
            part = bag.take(units)
            assert part.values.tobytes() == own.bags[name].values.tobytes(), name
            assert part.offsets.tobytes() == own.bags[name].offsets.tobytes(), name
        assert rows.bags.keys() | features.item_rows.keys() == {feature.name for feature in SCHEMA.features}
        assert rows.told[whole.candidates.owner == request].tobytes() == own.told.tobytes()


def test_numbers_are_those_of_the_definition() -> None:
    asked, features = worlds.asked(9), worlds.features()
    matrix = np.zeros((worlds.ITEMS, worlds.ITEMS))
    beside = features.relations["beside"]
    matrix[beside.items.owner, beside.items.values] = beside.values
    told = features.of(asked).told[:, len(SCHEMA.evidence) :]
    prices = features.items.numbers["item.price"]
    for place, (request, item) in enumerate(zip(asked.candidates.owner, asked.candidates.values, strict=True)):
        begin, end = asked.histories.offsets[request : request + 2]
        past = asked.histories.values[begin:end][::-1]
        near = sum(0.5**age * matrix[own, item] for age, own in enumerate(past[:3]))
        after = matrix[past[0], item] if len(past) else 0.0
        expected = [np.log1p(item), np.log1p(prices[item]), np.log(0.1 + near), np.log(0.2 + after)]
        np.testing.assert_allclose(told[place], expected, rtol=1e-6, err_msg=f"{request}, {item}")


def test_sums_are_the_same_bits_in_small_and_large_catalogs() -> None:
    rng = np.random.default_rng(0)
    items, values, wanted = rng.integers(50, size=400), rng.random(400), rng.integers(50, size=30)
    few = sums(items, values, wanted, 50)
    assert few.tobytes() == sums(items, values, wanted, 1 << 20).tobytes()
    np.testing.assert_allclose(few, [values[items == item].sum() for item in wanted])


def test_a_candidate_that_is_asked_twice_has_one_affinity() -> None:
    number = Affinity(name="n", of="beside", last=2, decay=0.5, floor=0.1)
    histories, candidates = Ragged.of([[3, 3, 7], []]), Ragged.of([[1, 0, 1, 2], [2, 2]])
    found = affinity(number, worlds.beside(), histories, candidates)
    assert found[0] == found[2]
    np.testing.assert_array_equal(found[4:], np.float32(np.log(0.1)))


def test_training_reads_from_parquet_what_serving_is_asked(tmp_path: Path) -> None:
    whole, features = worlds.asked(40), worlds.features()
    file = tmp_path / "lists.parquet"
    with ListWriter(file, evidence=SCHEMA.evidence, profile=["age", "country"], items="sha256:0") as writer:
        labels = np.zeros(len(whole.evidence), np.float32)
        writer.write(Lists(asked=whole, labels=labels, units=np.arange(len(whole))))
    request = 0
    for lists in ListReader(file).batches(7):
        for place in range(len(lists)):
            offline, online = features.of(worlds.alone(lists.asked, place)), features.of(worlds.alone(whole, request))
            assert_equal_bits(offline, online)
            request += 1
    assert request == 40


@given(st.text(alphabet="0123456789+-.eE ", max_size=8))
def test_a_number_is_what_the_documented_pattern_reads(text: str) -> None:
    found = number_of(text)
    if not np.isnan(found):
        assert text.strip() == text
        assert found == float(text)


def test_pieces() -> None:
    assert pieces(" a |b||  | c d ", "|") == ["a", "b", "c d"]
    assert pieces(" a |b", None) == [" a |b"]
    assert pieces("", None) == pieces(None, "|") == []


def test_a_schema_survives_json() -> None:
    assert Schema.from_json(SCHEMA.to_json()) == SCHEMA


@pytest.mark.parametrize(
    "feature",
    [
        Hashed(name="a.b", of="item.id", buckets=4),
        Hashed(name="f", of="item.nothing", buckets=4),
        Hashed(name="f", of="item.price", buckets=4),
        Hashed(name="f", of="item.id", buckets=0),
        Bucketed(name="f", of="item.price", edges=(2.0, 1.0)),
        Crossed(name="f", of=("item.id",), buckets=4),
        Behaviour(name="f", like="g"),
    ],
)
def test_what_cannot_be_computed_is_refused(feature: object) -> None:
    with pytest.raises(ConfigError, match="cannot be computed"):
        Schema(columns=[Column(name="item.id"), Column(name="item.price", kind="number")], features=[feature])


@pytest.mark.parametrize(
    "number",
    [
        Logged(name="n", of="item.id"),
        Logged(name="n", of="user.age"),
        Affinity(name="n", of="m", last=0, decay=0.5, floor=1.0),
        Affinity(name="n", of="m", last=1, decay=0.0, floor=1.0),
        Affinity(name="n", of="m", last=1, decay=0.5, floor=0.0),
    ],
)
def test_numbers_that_mean_nothing_are_refused(number: Logged | Affinity) -> None:
    columns = [Column(name="item.id"), Column(name="user.age", kind="number")]
    with pytest.raises(ConfigError, match="cannot be computed"):
        Schema(columns=columns, features=[], numbers=[number])
