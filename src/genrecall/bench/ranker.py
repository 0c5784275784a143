"""A ranker with random weights and as many sparse rows as asked for: true to shape, so that speed is.

Features are what the default schema makes of a shop: ids, a category, a price, counts, crosses with the user's city,
two behaviours, and how candidates go with the history. The large table is that of city x item; candidates and cities
follow power laws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from genrecall.rank.affinity import Relation
from genrecall.rank.columns import Asked, Columns, Ragged
from genrecall.rank.embedding import Tables
from genrecall.rank.features import Features
from genrecall.rank.hashing import mix
from genrecall.rank.model import NetworkConfig, RankNetwork
from genrecall.rank.recalled import evidence_names
from genrecall.rank.schema import Affinity, Behaviour, Bucketed, Column, Crossed, Hashed, Logged, Schema
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Query

LARGE, RELATION = "city_x_item", "beside"
CHANNELS = ("generative", "item_cf", "transition")
_CATEGORIES, _CITIES, _HISTORY = 2000, 1000, (20, 60)
_NEIGHBOURS, _CHUNK = 50, 1 << 22


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """The sparse side.

    Attributes:
        rows, width: of the large table, float16.
        room: bytes on the device for all tables, see ``Tables.serve_on``; None: as much as there is.
        vectors: width of the items' vectors.
    """

    rows: int
    width: int = 16
    room: int | None = None
    vectors: int = 64


def random_ranker(items: int, state: int, sparse: Sparse, device: torch.device, seed: int) -> Ranker:
    """For a catalog of so many items and states of width ``state``."""
    rng = np.random.default_rng(seed)
    schema = schema_of(items, state, sparse)
    torch.manual_seed(seed)
    network = RankNetwork(schema, NetworkConfig())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    columns = Columns(
        texts={
            "item.id": Ragged.single(mix(np.arange(items, dtype=np.uint64))),
            "item.category": Ragged.single(mix(rng.integers(0, _CATEGORIES, items).astype(np.uint64))),
        },
        numbers={"item.price": rng.lognormal(3, 1, items), "item.count": rng.zipf(1.5, items).astype(np.float64)},
    )
    weights = {f.name: large_table(1 + f.size, f.width, device, seed) for f in schema.tabled}
    vectors = rng.standard_normal((items, sparse.vectors), np.float32)
    tables = Tables(weights).serve_on(device, sparse.room)
    many = min(_NEIGHBOURS, items)
    others = ((rng.integers(0, items, (items, 1)) + np.arange(many) * (items // many)) % items).astype(np.int32).ravel()
    relation = Relation(
        items=Ragged(offsets=np.arange(items + 1, dtype=np.int64) * many, values=others),
        values=rng.random(len(others), np.float32),
    )
    return Ranker(Features(schema, columns, {}, {RELATION: relation}), {}, vectors, network.to(device), tables)


def schema_of(items: int, state: int, sparse: Sparse) -> Schema:
    """What it reads."""
    edges, small = tuple(float(edge) for edge in 2.0 ** np.arange(10)), 1 << 12
    of_items = 1 << max(items - 1, 1).bit_length()
    return Schema(
        columns=[
            Column(name="user.id"), Column(name="user.city"), Column(name="history.length", kind="number"),
            Column(name="item.id"), Column(name="item.category"), Column(name="item.price", kind="number"),
            Column(name="item.count", kind="number"),
        ],
        features=[
            Hashed(name="user", of="user.id", buckets=of_items),
            Hashed(name="city", of="user.city", buckets=small, width=8),
            Hashed(name="item", of="item.id", buckets=of_items),
            Hashed(name="category", of="item.category", buckets=small, width=8),
            Bucketed(name="price", of="item.price", edges=edges),
            Bucketed(name="count", of="item.count", edges=edges),
            Bucketed(name="history", of="history.length", edges=edges),
            Crossed(name=LARGE, of=("user.city", "item.id"), buckets=sparse.rows, width=sparse.width),
            Crossed(name="city_x_category", of=("user.city", "item.category"), buckets=1 << 18),
            Behaviour(name="clicked", like="item", last=50),
            Behaviour(name="clicked_category", like="category", last=50),
        ],
        numbers=[
            Logged(name="count", of="item.count"),
            Affinity(name="together", of=RELATION, last=13, decay=0.7, floor=0.5),
            Affinity(name="next", of=RELATION, last=1, decay=1.0, floor=0.5),
        ],
        evidence=evidence_names(CHANNELS),
        state=state,
        vectors=sparse.vectors,
    )  # fmt: skip


def large_table(rows: int, width: int, device: torch.device, seed: int) -> torch.Tensor:
    """float16 (rows, width), made on the device piece by piece, in host memory; pinned if a GPU will read it there."""
    table = torch.empty(rows, width, dtype=torch.float16, pin_memory=device.type == "cuda")
    generator = torch.Generator(device).manual_seed(seed)
    for begin in range(0, rows, _CHUNK):
        part = table[begin : begin + _CHUNK]
        part.copy_(torch.randn(part.shape, generator=generator, device=device) * 0.1)
    return table


def random_queries(items: int, count: int, seed: int) -> list[Query]:
    """Histories of items by a power law, and a city each."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(*_HISTORY, count)
    cities = by_power_law(_CITIES, count, 1.0, rng)
    return [
        Query(
            history=by_power_law(items, int(length), 1.0, rng).astype(np.int32),
            exclude=np.empty(0, np.int32),
            profile={"city": f"city {city}"},
        )
        for length, city in zip(lengths, cities, strict=True)
    ]


def random_asked(number: int, query: Query, schema: Schema, items: int, candidates: int) -> Asked:
    """The request of this number with as many random candidates, as a ranker is told of it."""
    rng = np.random.default_rng(number)
    return Asked(
        users=[str(number)],
        profiles=[query.profile],
        histories=Ragged.of([query.history]),
        candidates=Ragged.of([rng.integers(0, items, candidates)]),
        evidence=rng.standard_normal((candidates, len(schema.evidence)), np.float32),
        state=rng.standard_normal((1, schema.state), np.float32),
    )


def by_power_law(n: int, count: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """int64 (count,) of 0 … n-1, the place r with probability in proportion to about (r + 1)^-exponent."""
    u = rng.random(count)
    if exponent == 1.0:
        places = (n + 1.0) ** u
    else:
        power = 1 - exponent
        places = (((n + 1.0) ** power - 1) * u + 1) ** (1 / power)
    return np.minimum(places.astype(np.int64) - 1, n - 1)
