"""A ranker's forward pass, kernel by kernel, over the candidates of a batch, on the ranker of ``genrecall bench rank``.

What several candidates share (an item, a row of a table, a request's words) is counted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from genrecall.bench.kernel_cases.case import Case, RankerWorkload
from genrecall.bench.kernel_cases.forward import forward
from genrecall.bench.lookups import Drawn, warmed
from genrecall.bench.ranker import LARGE, Sparse, random_asked, random_queries, random_ranker, schema_of
from genrecall.kernels import cached_rows, crossed_rows, history_sums
from genrecall.kernels.cached_rows import reference as cached_rows_reference
from genrecall.kernels.crossed_rows import reference as crossed_rows_reference
from genrecall.kernels.history_sums import reference as history_sums_reference
from genrecall.kernels.rank_network import Pairs
from genrecall.rank.columns import joined
from genrecall.rank.fused import Fused
from genrecall.rank.hosted import HostedTable
from genrecall.rank.inputs import ItemSide
from genrecall.rank.pairs import PairSide

NAMES = (
    "cached_rows", "crossed_rows", "history_sums", "rank_network.brought", "rank_network.fill", "rank_network.pool",
    "rank_network.logits",
)  # fmt: skip
_WARM_S, _NOW = 3.0, 1 << 30


def ranker(work: RankerWorkload, device: torch.device) -> Iterator[Case]:
    """All of them, on one random ranker."""
    fused, hosted, found = _batch(work, device)
    pairs = Pairs(owner=found["owner"], items=found["items"])
    yield from _lookups(work, hosted, device)
    yield _crosses(fused.pairs, pairs, found)
    yield _sums(fused.pairs, pairs, found)
    yield from forward(fused, pairs, found)


def _batch(work: RankerWorkload, device: torch.device) -> tuple[Fused, HostedTable, dict[str, torch.Tensor]]:
    """A ranker, its table in host memory, and what it is sent of one batch."""
    sparse = Sparse(rows=work.table_rows)
    schema = schema_of(work.items, work.state, sparse)
    near = sum(2 * (1 + feature.size) * feature.width for feature in schema.tabled if feature.name != LARGE)
    sparse = replace(sparse, room=near + work.table_rows * sparse.width // 2)
    one = random_ranker(work.items, work.state, sparse, device, seed=0)
    one.network.requires_grad_(False)
    if one.tables.flat is None:  # a CPU has no need of it, but these kernels read it
        one.tables.pack([name for name in one.tables.names if name != LARGE], device)
    side = ItemSide.of(one.features, one.vectors, device)
    side = replace(side, pairs=side.pairs or PairSide.of(one.features, device))
    fused = Fused(one.features, one.network, one.tables, side)
    queries = random_queries(work.items, work.requests, seed=0)
    asked = [random_asked(i, query, schema, work.items, work.candidates) for i, query in enumerate(queries)]
    return fused, one.tables.hosted[LARGE], fused.send(one.features.of(joined(asked), whole=False))


def _lookups(work: RankerWorkload, hosted: HostedTable, device: torch.device) -> Iterator[Case]:
    """Of rows that the cache lacks in part, and of rows that it holds."""
    draw = Drawn(work.table_rows, work.exponent, work.requests * work.candidates, device, seed=0)
    warmed(hosted, draw, _WARM_S)
    table, cache = hosted.table, hosted.cache
    # No slot is older than these calls, so that none is given away: what is missed stays missed, call after call.
    cache.used.fill_(_NOW)
    row_bytes = table.shape[1] * table.element_size()

    def home(rows: torch.Tensor) -> torch.Tensor:
        return cached_rows.set_of(rows, len(cache.tags))

    drawn = draw()
    held = (cache.tags[home(drawn)] == drawn[:, None]).any(1)
    near = drawn[held]
    for rows in (drawn, near[torch.arange(len(drawn), device=device) % len(near)]):
        hit = (cache.tags[home(rows)] == rows[:, None]).any(1)
        here, far = torch.unique(rows[hit]), torch.unique(rows[~hit])
        tags_bytes = cached_rows.WAYS * 4
        yield Case(
            name="cached_rows",
            shape=f"{len(rows):,} of {len(table):,} rows of {row_bytes} bytes, {hit.double().mean():.0%} of them among "
            f"{hosted.cache_rows:,} held",
            run=partial(cached_rows.cached_rows, rows, table, cache, _NOW),
            reference=partial(cached_rows_reference.cached_rows, rows, table, cache, _NOW),
            bytes=len(rows) * (8 + row_bytes) + len(torch.unique(home(rows))) * tags_bytes
            + len(here) * (row_bytes + 4) + len(torch.unique(home(far))) * tags_bytes,
            bus_bytes=len(far) * row_bytes,
        )  # fmt: skip


def _crosses(side: PairSide, pairs: Pairs, found: dict[str, torch.Tensor]) -> Case:
    """Of the table in host memory: the others are hashed where they are looked up."""
    assert side.codes is not None, "the schema crosses features"
    own = [side.names.index(LARGE)]
    requests = crossed_rows.Codes(folded=found["far folded"], there=found["far there"])
    items = crossed_rows.Codes(folded=side.codes.folded[own], there=side.codes.there[own])
    arguments = requests, items, side.buckets[own], pairs.owner, pairs.items
    return Case(
        name="crossed_rows",
        shape=f"{len(own)} x {len(pairs.items):,} pairs of {requests.folded.shape[1]} requests",
        run=partial(crossed_rows.crossed_rows, *arguments),
        reference=partial(crossed_rows_reference.crossed_rows, *arguments),
        bytes=(12 + 8 * len(own)) * len(pairs.items)
        + 9 * len(own) * (requests.folded.shape[1] + len(torch.unique(pairs.items))),
    )


def _sums(side: PairSide, pairs: Pairs, found: dict[str, torch.Tensor]) -> Case:
    matrices, readings = side.matrices, side.readings
    past = history_sums.Past(items=found["past"], offsets=found["past begins"])
    lasts, many = readings.last.tolist(), len(pairs.items)
    rows = matrices.offsets[:, torch.unique(past.items).long()[:, None] + torch.arange(2, device=past.items.device)]
    arguments = matrices, readings, past, pairs.owner, pairs.items
    return Case(
        name="history_sums",
        shape=f"{many:,} pairs, newest {' and '.join(map(str, lasts))} items, {matrices.longest} entries a row",
        run=partial(history_sums.history_sums, *arguments),
        reference=partial(history_sums_reference.history_sums, *arguments),
        bytes=(12 + 8 * len(lasts)) * many + 4 * len(past.items) + 8 * len(past.offsets)
        + 8 * rows.numel() + 4 * int(rows.diff().sum()),
        flop=2 * many * sum(lasts),
    )  # fmt: skip
