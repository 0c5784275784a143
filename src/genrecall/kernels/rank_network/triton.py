"""One launch a step. See ``reference`` for formula and citations; products are exact float32 (``ieee``)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from genrecall.kernels.crossed_rows.triton import hashed
from genrecall.kernels.dispatch import require_packed
from genrecall.kernels.rank_network import PAIRS, Dense, Joint, Lookups, Numbers, Pairs, Pooling, Told, padded, rows_of

_OF_STATE = 256


def room(tensor: torch.Tensor) -> int:
    """See the contract in ``__init__``."""
    index = tensor.device.index or 0
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])


def brought(state: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
            ) -> torch.Tensor:  # fmt: skip
    """See the contract in ``__init__``."""
    require_packed(state, mean, spread, weight, bias)
    requests, wide = len(state), len(weight)
    out = torch.empty(requests, wide, dtype=torch.float32, device=state.device)
    _bring[(requests,)](
        state, mean, spread, weight, bias, out, state.shape[1], J=wide, JP=padded(wide), BLOCK=_OF_STATE, num_warps=4
    )
    return out


def fill(
    x: torch.Tensor, pairs: Pairs, told: Told, lookups: Lookups, numbers: Numbers | None, joint: Joint | None
) -> None:
    """See the contract in ``__init__``."""
    codes, none = lookups.codes, x
    require_packed(
        x, pairs.owner, pairs.items, lookups.flat, lookups.places, lookups.item_rows, lookups.buckets, codes.folded,
        codes.there, told.rows, told.codes.folded, told.codes.there, told.evidence, told.sums,
    )  # fmt: skip
    if len(pairs.items) == 0:
        return
    # What is not there is never read, but compiled: places must be integers.
    standard: tuple[torch.Tensor, ...] = (none, none, none, pairs.items, none, pairs.items, none)
    number_column = evidence = logged = summed = 0
    if numbers is not None:
        standard = (numbers.mean, numbers.spread, numbers.logged, numbers.logged_at, told.sums, numbers.summed_at,
                    numbers.floors)  # fmt: skip
        number_column, evidence = numbers.column, numbers.evidence
        logged, summed = len(numbers.logged_at), len(numbers.summed_at)
    vectors, weight, columns, wide = none, none, (-1, -1, -1), 0
    depth = 0
    if joint is not None:
        columns = (joint.state_column, joint.column, joint.product_column)
        if joint.vectors is not None and joint.weight is not None:
            vectors, weight = joint.vectors, joint.weight
            depth, wide = vectors.shape[1], len(weight)
    if told.state is not None:
        wide = told.state.shape[1]
    _fill[(triton.cdiv(len(pairs.items), PAIRS),)](
        x, pairs.owner, pairs.items, lookups.flat, lookups.places, lookups.item_rows, told.rows, told.codes.folded,
        told.codes.there, codes.folded, codes.there, lookups.buckets, told.evidence, *standard, vectors, weight,
        none if told.state is None else told.state,
        len(pairs.items), x.shape[1], told.rows.shape[1], told.codes.folded.shape[1], lookups.item_rows.shape[1],
        codes.folded.shape[1], number_column, *columns,
        ITEM=len(lookups.item_rows), REQUEST=len(told.rows), CROSS=len(lookups.buckets),
        WIDTH=triton.next_power_of_2(max(lookups.widest, 1)), EVIDENCE=evidence, LOGGED=logged, SUMMED=summed,
        D=depth, J=wide, JP=padded(wide), STATE=told.state is not None,
        PRODUCT=told.state is not None and depth > 0, BLOCK=PAIRS, num_warps=4,
    )  # fmt: skip


def pool(
    x: torch.Tensor, pairs: Pairs, flat: torch.Tensor, rows: torch.Tensor, count: torch.Tensor, pooling: Pooling
) -> None:
    """See the contract in ``__init__``."""
    require_packed(x, pairs.owner, flat, rows, count)
    if len(pairs.items) == 0:
        return
    asks = pooling.inner is not None
    hidden = pooling.inner.shape[1] if pooling.inner is not None else 0
    _pool[(triton.cdiv(len(pairs.items), PAIRS),)](
        x, pairs.owner, flat, rows, count, pooling.inner if asks else x, pooling.bias if asks else x,
        pooling.outer if asks else x, pooling.shift, len(pairs.items), x.shape[1], rows.shape[1], pooling.begin,
        pooling.query, pooling.column, W=pooling.width, WP=padded(pooling.width), H=hidden, HP=padded(hidden),
        ASKS=asks, BLOCK=PAIRS, num_warps=4, num_stages=1,
    )  # fmt: skip


def logits(x: torch.Tensor, dense: Dense) -> torch.Tensor:
    """See the contract in ``__init__``."""
    require_packed(x, dense.down, dense.up, dense.cross_bias, dense.rest, dense.deep_bias, dense.head, dense.deep_head)
    pairs, width = x.shape
    out = torch.empty(2, pairs, dtype=torch.float32, device=x.device)
    if pairs == 0:
        return out
    first, block = dense.first, rows_of(width)
    _logits[(triton.cdiv(pairs, block),)](
        x, dense.down, dense.up, dense.cross_bias, x if first is None else first, dense.rest, dense.deep_bias,
        dense.head, dense.deep_head, out, pairs, dense.bias, dense.slope, dense.shift, F=width, FP=padded(width),
        CROSSES=len(dense.down), K=dense.down.shape[1], KP=padded(dense.down.shape[1]),
        H=padded(1) if first is None else len(first), LAYERS=0 if first is None else len(dense.deep_bias), BLOCK=block,
        num_warps=8, num_stages=1,
    )  # fmt: skip
    return out


@triton.jit
def _bring(
    state, mean, spread, weight, bias, out, width, J: tl.constexpr, JP: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    request = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, JP)
    total = tl.zeros([JP], tl.float32)
    for start in range(0, width, BLOCK):
        e = start + tl.arange(0, BLOCK)
        inside = e < width
        value = tl.load(state + request * width + e, mask=inside, other=0.0) - tl.load(mean + e, mask=inside, other=0.0)
        value = value / tl.load(spread + e, mask=inside, other=1.0)
        value = _known(value)
        tile = tl.load(weight + j[:, None] * width + e[None, :], mask=(j < J)[:, None] & inside[None, :], other=0.0)
        total += tl.sum(tile * value[None, :], 1)
    tl.store(out + request * J + j, total + tl.load(bias + j, mask=j < J, other=0.0), mask=j < J)


@triton.jit
def _look(flat, place, row, x, column_of, inside, WIDTH: tl.constexpr):
    """Copy a row of a table for each pair into its columns."""
    begin, width, column = tl.load(place), tl.load(place + 1), tl.load(place + 2)
    c = tl.arange(0, WIDTH)[None, :]
    there = inside[:, None] & (c < width)
    value = tl.load(flat + begin + row[:, None] * width + c, mask=there, other=0.0)
    tl.store(x + column_of[:, None] + column + c, value.to(tl.float32), mask=there)


@triton.jit
def _known(value):
    """As torch.nan_to_num."""
    value = tl.where(value == value, value, 0.0)
    return tl.minimum(tl.maximum(value, -3.4028234663852886e38), 3.4028234663852886e38)


@triton.jit
def _standard(value, mean, spread, place):
    return _known((value - tl.load(mean + place)) / tl.load(spread + place))


@triton.jit(do_not_specialize=["pairs", "requests", "worded", "items_known", "items_worded"])
def _fill(
    x, owner, items, flat, places, item_rows, request_rows, request_words, request_there, item_words, item_there,
    buckets, evidence, mean, spread, logged, logged_at, sums, summed_at, floors, vectors, weight, state,
    pairs, stride, requests, worded, items_known, items_worded, number_column, state_column, column, product_column,
    ITEM: tl.constexpr, REQUEST: tl.constexpr, CROSS: tl.constexpr, WIDTH: tl.constexpr, EVIDENCE: tl.constexpr,
    LOGGED: tl.constexpr, SUMMED: tl.constexpr, D: tl.constexpr, J: tl.constexpr, JP: tl.constexpr,
    STATE: tl.constexpr, PRODUCT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < pairs
    request = tl.load(owner + i, mask=inside, other=0)
    item = tl.load(items + i, mask=inside, other=0).to(tl.int64)
    row_of = i.to(tl.int64) * stride
    for f in range(ITEM):
        row = tl.load(item_rows + f * items_known.to(tl.int64) + item, mask=inside, other=0).to(tl.int64)
        _look(flat, places + 3 * f, row, x, row_of, inside, WIDTH)
    for f in range(REQUEST):
        row = tl.load(request_rows + f * requests + request, mask=inside, other=0).to(tl.int64)
        _look(flat, places + 3 * (ITEM + f), row, x, row_of, inside, WIDTH)
    for f in range(CROSS):
        ours, theirs = f * worded + request, f * items_worded.to(tl.int64) + item
        word = tl.load(request_words + ours, mask=inside, other=0) ^ tl.load(item_words + theirs, mask=inside, other=0)
        row = hashed(word, tl.load(buckets + f))
        there = tl.load(request_there + ours, mask=inside, other=0) & tl.load(item_there + theirs, mask=inside, other=0)
        _look(flat, places + 3 * (ITEM + REQUEST + f), tl.where(there != 0, row, 0), x, row_of, inside, WIDTH)
    into = x + row_of + number_column
    for n in range(EVIDENCE):
        value = tl.load(evidence + i.to(tl.int64) * EVIDENCE + n, mask=inside, other=0.0)
        tl.store(into + n, _standard(value, mean, spread, n), mask=inside)
    for n in range(LOGGED):
        place = tl.load(logged_at + n)
        value = tl.load(logged + item * LOGGED + n, mask=inside, other=0.0)
        tl.store(into + place, _standard(value, mean, spread, place), mask=inside)
    for n in range(SUMMED):
        place = tl.load(summed_at + n)
        value = tl.log(tl.load(sums + n * pairs.to(tl.int64) + i, mask=inside, other=0.0) + tl.load(floors + n))
        tl.store(into + place, _standard(value.to(tl.float32), mean, spread, place), mask=inside)
    j = tl.arange(0, JP)
    narrow = inside[:, None] & (j < J)[None, :]
    vector = tl.zeros([BLOCK, JP], tl.float32)
    if D > 0:
        for start in range(0, D, 32):
            d = start + tl.arange(0, 32)
            ours = tl.load(vectors + item[:, None] * D + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0)
            tile = tl.load(weight + j[None, :] * D + d[:, None], mask=(j < J)[None, :] & (d < D)[:, None], other=0.0)
            vector = tl.dot(ours, tile, vector, input_precision="ieee")
        tl.store(x + row_of[:, None] + column + j[None, :], vector, mask=narrow)
    if STATE:
        own = tl.load(state + request[:, None] * J + j[None, :], mask=narrow, other=0.0)
        tl.store(x + row_of[:, None] + state_column + j[None, :], own, mask=narrow)
        if PRODUCT:
            tl.store(x + row_of[:, None] + product_column + j[None, :], own * vector, mask=narrow)


@triton.jit(do_not_specialize=["pairs", "longest", "begin"])
def _pool(
    x, owner, flat, rows, count, inner, bias, outer, shift, pairs, stride, longest, begin, query, column,
    W: tl.constexpr, WP: tl.constexpr, H: tl.constexpr, HP: tl.constexpr, ASKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < pairs
    request = tl.load(owner + i, mask=inside, other=0)
    many = tl.load(count + request, mask=inside, other=0)
    c, h = tl.arange(0, WP), tl.arange(0, HP)
    narrow = inside[:, None] & (c < W)[None, :]
    place = x + i.to(tl.int64)[:, None] * stride + c[None, :]
    if ASKS:
        asked = tl.load(place + query, mask=narrow, other=0.0)
        part = inner + h[None, :] * W + c[:, None]
        weights = (h < H)[None, :] & (c < W)[:, None]
        of_q = tl.load(part, mask=weights, other=0.0)
        of_k = tl.load(part + H * W, mask=weights, other=0.0)
        of_both = tl.load(part + 2 * H * W, mask=weights, other=0.0)
        base = tl.dot(asked, of_q, input_precision="ieee") + tl.load(bias + h, mask=h < H, other=0.0)[None, :]
        last = tl.load(outer + h, mask=h < H, other=0.0)[None, :]
    total = tl.zeros([BLOCK, WP], tl.float32)
    for event in range(tl.max(many, 0)):
        there = inside & (event < many)
        row = tl.load(rows + request * longest + event, mask=there, other=0).to(tl.int64)
        key = tl.load(flat + begin + row[:, None] * W + c[None, :], mask=there[:, None] & (c < W)[None, :], other=0.0)
        key = key.to(tl.float32)
        share = there.to(tl.float32)
        if ASKS:
            hidden = tl.dot(key, of_k, base, input_precision="ieee")
            hidden = tl.maximum(tl.dot(asked * key, of_both, hidden, input_precision="ieee"), 0.0)
            share = tl.where(there, tl.sum(hidden * last, 1) + shift, 0.0)
        total += share[:, None] * key
    tl.store(place + column, total / tl.maximum(many, 1).to(tl.float32)[:, None], mask=narrow)


@triton.jit(do_not_specialize=["pairs", "bias", "slope", "shift"])
def _logits(
    x, down, up, cross_bias, first, rest, deep_bias, head, deep_head, out, pairs, bias, slope, shift,
    F: tl.constexpr, FP: tl.constexpr, CROSSES: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, H: tl.constexpr,
    LAYERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < pairs
    f, k, h = tl.arange(0, FP), tl.arange(0, KP), tl.arange(0, H)
    begins = x + i.to(tl.int64)[:, None] * F
    whole = tl.load(begins + f[None, :], mask=inside[:, None] & (f < F)[None, :], other=0.0)
    crossed = whole
    for layer in range(CROSSES):
        tile = tl.load(
            down + layer * K * F + k[None, :] * F + f[:, None], mask=(k < K)[None, :] & (f < F)[:, None], other=0.0
        )
        low = tl.dot(crossed, tile, input_precision="ieee")
        tile = tl.load(
            up + layer * F * K + f[None, :] * K + k[:, None], mask=(k < K)[:, None] & (f < F)[None, :], other=0.0
        )
        high = tl.dot(low, tile, input_precision="ieee")
        crossed = whole * (high + tl.load(cross_bias + layer * F + f, mask=f < F, other=0.0)[None, :]) + crossed
    found = tl.sum(crossed * tl.load(head + f, mask=f < F, other=0.0)[None, :], 1) + bias
    if LAYERS > 0:
        hidden = tl.zeros([BLOCK, H], tl.float32)
        for start in range(0, F, 32):
            c = start + tl.arange(0, 32)
            part = tl.load(begins + c[None, :], mask=inside[:, None] & (c < F)[None, :], other=0.0)
            tile = tl.load(first + h[None, :] * F + c[:, None], mask=(c < F)[:, None], other=0.0)
            hidden = tl.dot(part, tile, hidden, input_precision="ieee")
        hidden = tl.maximum(hidden + tl.load(deep_bias + h)[None, :], 0.0)
        for layer in range(LAYERS - 1):
            tile = tl.load(rest + layer * H * H + h[None, :] * H + h[:, None])
            hidden = tl.dot(hidden, tile, input_precision="ieee")
            hidden = tl.maximum(hidden + tl.load(deep_bias + (layer + 1) * H + h)[None, :], 0.0)
        found += tl.sum(hidden * tl.load(deep_head + h)[None, :], 1)
    tl.store(out + i, found, mask=inside)
    tl.store(out + pairs + i, 1.0 / (1.0 + tl.exp(-(slope * found + shift))), mask=inside)
