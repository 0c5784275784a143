"""The launches that fill x_0 and read it. Products are exact in float32, so that rate is their floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch

from genrecall.bench.kernel_cases.case import Case
from genrecall.kernels import rank_network
from genrecall.kernels.crossed_rows.reference import crossed_rows
from genrecall.kernels.rank_network import Pairs, Told
from genrecall.kernels.rank_network import reference as rank_network_reference
from genrecall.rank.fused import Fused


def forward(fused: Fused, pairs: Pairs, found: dict[str, torch.Tensor]) -> Iterator[Case]:
    """In their order; the columns of tables in host memory stay 0, since no launch here writes them."""
    told = fused.told(found, pairs)
    x = torch.zeros(len(pairs.items), fused.width, device=fused.device)
    if fused.schema.state:
        yield _brought(fused, found["state"])
    yield _fill(fused, pairs, told, x.clone())
    rank_network_reference.fill(x, pairs, told, fused.lookups, fused.numbers, fused.joint)
    for name in fused.pooling:
        yield _pool(fused, name, pairs, found, x.clone())
        past = found[f"{name}.rows"], found[f"{name}.count"]
        rank_network_reference.pool(x, pairs, fused.lookups.flat, *past, fused.pooling[name])
    yield _logits(fused, x)


def _written(x: torch.Tensor, step: Callable[..., None], *arguments: object) -> torch.Tensor:
    step(x, *arguments)
    return x


def _brought(fused: Fused, state: torch.Tensor) -> Case:
    own = fused.network.get_submodule("state")
    weight, bias = own.get_parameter("weight"), own.get_parameter("bias")
    arguments = state, own.get_buffer("mean"), own.get_buffer("spread"), weight, bias
    requests, joint = len(state), len(weight)
    return Case(
        name="rank_network.brought",
        shape=f"{requests} states, {state.shape[1]} to {joint}",
        run=partial(rank_network.brought, *arguments),
        reference=partial(rank_network_reference.brought, *arguments),
        bytes=_bytes(arguments) + 4 * requests * joint,
        flop=2 * requests * (1 + joint) * state.shape[1],
        arithmetic="float32",
    )


def _fill(fused: Fused, pairs: Pairs, told: Told, x: torch.Tensor) -> Case:
    lookups, numbers, joint = fused.lookups, fused.numbers, fused.joint
    assert numbers is not None, "the schema tells numbers"
    assert joint is not None, "the schema reads states and vectors"
    assert joint.vectors is not None, "it reads vectors"
    assert joint.weight is not None, "it reads vectors"
    many, items = len(pairs.items), torch.unique(pairs.items).long()
    crossed = crossed_rows(told.codes, lookups.codes, lookups.buckets, pairs.owner, pairs.items)
    looked = [*lookups.item_rows[:, items], *told.rows, *crossed]
    widths = lookups.places[:, 1].tolist()
    rows_bytes = lookups.flat.element_size() * sum(
        width * len(torch.unique(rows)) for width, rows in zip(widths, looked, strict=True)
    )
    of_item = 4 * (len(lookups.item_rows) + numbers.logged.shape[1] + joint.vectors.shape[1]) + 9 * len(crossed)
    written = sum(widths) + len(numbers.mean) + 3 * len(joint.weight)
    arguments = pairs, told, lookups, numbers, joint
    return Case(
        name="rank_network.fill",
        shape=f"{many:,} candidates, {written} of {x.shape[1]} columns of {len(looked)} tables and numbers",
        run=partial(_written, x, rank_network.fill, *arguments),
        reference=partial(_written, x, rank_network_reference.fill, *arguments),
        bytes=rows_bytes + of_item * len(items) + 4 * many * written
        + _bytes((pairs.owner, pairs.items, told.rows, told.codes.folded, told.codes.there, told.evidence, told.sums,
                  told.state, joint.weight)),
        flop=2 * len(items) * joint.weight.numel(),
        arithmetic="float32",
    )  # fmt: skip


def _pool(fused: Fused, name: str, pairs: Pairs, found: dict[str, torch.Tensor], x: torch.Tensor) -> Case:
    rows, count, own = found[f"{name}.rows"], found[f"{name}.count"], fused.pooling[name]
    assert own.inner is not None, "the network pools by attention"
    many, width, hidden = len(pairs.items), own.width, own.inner.shape[1]
    events = int(count[pairs.owner].sum())
    keys = torch.unique(rows[torch.arange(rows.shape[1], device=rows.device) < count[:, None]])
    arguments = pairs, fused.lookups.flat, rows, count, own
    return Case(
        name="rank_network.pool",
        shape=f"{many:,} candidates, {events / many:.0f} events, {width} wide, {hidden} hidden",
        run=partial(_written, x, rank_network.pool, *arguments),
        reference=partial(_written, x, rank_network_reference.pool, *arguments),
        bytes=8 * many * width + len(keys) * width * fused.lookups.flat.element_size()
        + _bytes((pairs.owner, rows, count, own.inner, own.bias, own.outer)),
        flop=2 * (events * (width * hidden + hidden + width) + many * width * hidden),
        arithmetic="float32",
    )  # fmt: skip


def _logits(fused: Fused, x: torch.Tensor) -> Case:
    (many, width), dense, config = x.shape, fused.dense, fused.network.config
    products = 2 * config.cross_layers * width * config.cross_rank + width
    if config.deep:
        products += sum(a * b for a, b in pairwise((width, *config.deep, 1)))
    weights = (dense.down, dense.up, dense.cross_bias, dense.first, dense.rest, dense.deep_bias, dense.head)
    return Case(
        name="rank_network.logits",
        shape=f"{many:,} candidates of {width}, {config.cross_layers} crosses, layers of {config.deep}",
        run=partial(rank_network.logits, x, dense),
        reference=partial(rank_network_reference.logits, x, dense),
        bytes=_bytes((x, *weights)) + 8 * many,
        flop=2 * many * products,
        arithmetic="float32",
    )


def _bytes(tensors: Sequence[torch.Tensor | None]) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
