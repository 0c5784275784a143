"""A small world that can be ranked: items with a colour and a price, users with a country, all drawn by a seed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from genrecall.catalog.items import Items
from genrecall.rank.affinity import Relation
from genrecall.rank.columns import Asked, Ragged, item_columns
from genrecall.rank.features import Features, Rows
from genrecall.rank.hashing import codes_of
from genrecall.rank.schema import Affinity, Behaviour, Bucketed, Column, Crossed, Hashed, Logged, Schema, Vocabulary

COLOURS = ("red", "blue", "green")
ITEMS = 12
STATE, VECTORS = 6, 4

SCHEMA = Schema(
    columns=[
        Column(name="user.id"),
        Column(name="user.country"),
        Column(name="user.age", kind="number"),
        Column(name="item.id"),
        Column(name="item.colours", split="|"),
        Column(name="item.price", kind="number"),
        Column(name="item.count", kind="number"),
        Column(name="history.last"),
        Column(name="history.length", kind="number"),
    ],
    features=[
        Hashed(name="user", of="user.id", buckets=32, width=4),
        Vocabulary(name="item", of="item.id", size=ITEMS, width=4),
        Hashed(name="colours", of="item.colours", buckets=16, width=3),
        Bucketed(name="price", of="item.price", edges=(1.0, 2.5), width=2),
        Bucketed(name="age", of="user.age", edges=(18, 40), width=2),
        Bucketed(name="count", of="item.count", edges=(3,), width=2),
        Bucketed(name="length", of="history.length", edges=(1, 3), width=2),
        Crossed(name="country_colour", of=("user.country", "item.colours"), buckets=64, width=3),
        Crossed(name="age_price", of=("age", "price"), buckets=64, width=3),
        Crossed(name="last_item", of=("history.last", "item.id"), buckets=128, width=3),
        Behaviour(name="clicked", like="item", last=3),
        Behaviour(name="clicked_colours", like="colours", last=2),
    ],
    numbers=[
        Logged(name="sold", of="item.count"),
        Logged(name="costs", of="item.price"),
        Affinity(name="together", of="beside", last=3, decay=0.5, floor=0.1),
        Affinity(name="next", of="beside", last=1, decay=1.0, floor=0.2),
    ],
    evidence=("fusion", "sid_score"),
    state=STATE,
    vectors=VECTORS,
)


def items() -> Items:
    """Some without colours, some without price."""
    colours = ["|".join(COLOURS[: i % 4]) for i in range(ITEMS)]
    prices = [None if i % 5 == 0 else i / 3 for i in range(ITEMS)]
    return Items(
        table=pa.table(
            {"item_id": [f"i{i}" for i in range(ITEMS)], "title": ["t"] * ITEMS, "colours": colours, "price": prices}
        )
    )


def features(schema: Schema = SCHEMA) -> Features:
    """Of the world's items."""
    catalog = items()
    columns = item_columns(catalog, schema, np.arange(ITEMS))
    return Features(schema, columns, {"item": codes_of(catalog.ids)}, {"beside": beside()})


def beside() -> Relation:
    """Items of other items, of some none."""
    rng = np.random.default_rng(4)
    others = Ragged.of([rng.permutation(ITEMS)[: i % 4] for i in range(ITEMS)])
    return Relation(items=others, values=rng.random(len(others.values)).astype(np.float32))


def vectors() -> np.ndarray:
    """float32 (I, D)."""
    return np.random.default_rng(3).normal(size=(ITEMS, VECTORS)).astype(np.float32)


def asked(requests: int, seed: int = 0) -> Asked:
    """Requests with and without users, profiles and histories."""
    rng = np.random.default_rng(seed)
    histories = [rng.integers(ITEMS, size=rng.integers(6)) for _ in range(requests)]
    candidates = [rng.permutation(ITEMS)[: rng.integers(1, ITEMS)] for _ in range(requests)]
    ragged = Ragged.of(candidates)
    evidence = rng.normal(size=(len(ragged.values), 2)).astype(np.float32)
    evidence[rng.random(evidence.shape) < 0.2] = np.nan
    profiles = [
        {"country": ("FR", "ES")[i % 2], "age": ("17", "40", "x", "3e1")[i % 4]} if i % 3 else {}
        for i in range(requests)
    ]
    return Asked(
        users=[None if i % 4 == 3 else f"u{i}" for i in range(requests)],
        profiles=profiles,
        histories=Ragged.of(histories),
        candidates=ragged,
        evidence=evidence,
        state=rng.normal(size=(requests, STATE)).astype(np.float32),
    )


def alone(whole: Asked, request: int) -> Asked:
    """One of the requests."""
    begin, end = whole.candidates.offsets[request : request + 2]
    assert whole.state is not None
    return Asked(
        users=[whole.users[request]],
        profiles=[whole.profiles[request]],
        histories=whole.histories.take(np.array([request])),
        candidates=whole.candidates.take(np.array([request])),
        evidence=whole.evidence[begin:end],
        state=whole.state[request : request + 1],
    )


def bag_of(features: Features, rows: Rows, name: str) -> Ragged:
    """A feature's bags, also where items alone say what is in them."""
    return rows.bags[name] if name in rows.bags else Ragged.single(features.item_rows[name][rows.items])
