"""A ranking network's forward pass over all candidates of a batch, in few launches: contract and dispatch.

Four steps fill x_0 (P, F) column by column and one reads it. A ranker runs beside an engine whose products hold every
multiprocessor for hundreds of microseconds, so that each launch that depends on another waits that long: few launches
are worth more than fast ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from genrecall.kernels.crossed_rows import Codes
from genrecall.kernels.dispatch import implementation

PAIRS = 64
"""Candidates of a program of ``fill`` and ``pool``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """P candidates of R requests.

    Attributes:
        owner: int64 (P,), ascending.
        items: int32 (P,).
    """

    owner: torch.Tensor
    items: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookups:
    """Features of one row a candidate: those of items, then those of requests, then crosses.

    Attributes:
        flat: float16 or float32, all tables after each other.
        places: int64 (n, 3) by feature: where its table begins in ``flat``, its width, its first column of x_0.
        widest: the largest width.
        item_rows: int32 (n_i, I).
        codes: of the items, for n_c crosses.
        buckets: int64 (n_c,).
    """

    flat: torch.Tensor
    places: torch.Tensor
    widest: int
    item_rows: torch.Tensor
    codes: Codes
    buckets: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """Evidence and numbers, standardised; not known (NaN) becomes the mean.

    Attributes:
        column: of x_0 where they begin.
        mean, spread: float32 (N,), of evidence, then of numbers.
        evidence: how many of them are evidence.
        logged: float32 (I, n) numbers of items.
        logged_at: int32 (n,), their places among the N.
        summed_at: int32 (m,), places of the logarithms of sums.
        floors: float64 (m,), what is added to a sum before.
    """

    column: int
    mean: torch.Tensor
    spread: torch.Tensor
    evidence: int
    logged: torch.Tensor
    logged_at: torch.Tensor
    summed_at: torch.Tensor
    floors: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Joint:
    """States and items' vectors, brought to width J, and their products; -1 for a column that is not there.

    Attributes:
        state_column, column, product_column: of x_0, for the state, the vector and the product.
        vectors: float32 (I, D), or None.
        weight: float32 (J, D), or None.
    """

    state_column: int
    column: int
    product_column: int
    vectors: torch.Tensor | None
    weight: torch.Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """What a batch's requests say.

    Attributes:
        rows: int32 (n_r, R) of features of requests.
        codes: of the requests, for n_c crosses.
        evidence: float32 (P, E).
        sums: float64 (m, P), see ``kernels.history_sums``.
        state: float32 (R, J), or None.
    """

    rows: torch.Tensor
    codes: Codes
    evidence: torch.Tensor
    sums: torch.Tensor
    state: torch.Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Pooling:
    """DIN's attention of one behaviour; without ``inner`` the mean.

    Attributes:
        begin, width: of the table in ``flat``.
        query, column: of x_0: the candidate's own row, and where the result goes.
        inner: float32 (3, H, w): of q, of k, of q ∘ k; or None.
        bias, outer: float32 (H,).
        shift: the outer bias.
    """

    begin: int
    width: int
    query: int
    column: int
    inner: torch.Tensor | None
    bias: torch.Tensor | None
    outer: torch.Tensor | None
    shift: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """Crosses, layers and head over x_0.

    Attributes:
        down, up: float32 (L, K, F), (L, F, K).
        cross_bias: float32 (L, F).
        first: float32 (H, F), of the first layer; H is a power of two and at least 16, zeros fill it up. Or None.
        rest: float32 (n-1, H, H), of the others.
        deep_bias: float32 (n, H).
        head: float32 (F,), of the crossed x.
        deep_head: float32 (H,), of the last layer.
        bias, slope, shift: of the head; of the calibration.
    """

    down: torch.Tensor
    up: torch.Tensor
    cross_bias: torch.Tensor
    first: torch.Tensor | None
    rest: torch.Tensor
    deep_bias: torch.Tensor
    head: torch.Tensor
    deep_head: torch.Tensor
    bias: float
    slope: float
    shift: float


def shared_bytes(width: int, cross_rank: int, hidden: int, pooled: Sequence[tuple[int, int]]) -> int:
    """Of a multiprocessor's memory that the largest of the tiles take, at most.

    Args:
        width: F.
        cross_rank: K.
        hidden: H, a power of two.
        pooled: width of the table and hidden units of every behaviour.
    """
    columns, rows = padded(width), rows_of(width)
    crosses = 4 * columns * (padded(cross_rank) + rows)
    layers = 4 * hidden * (hidden + rows)
    pools = [4 * padded(own) * (3 * padded(asks) + 2 * PAIRS) for own, asks in pooled]
    return max(crosses, layers, *pools)


def room(tensor: torch.Tensor) -> int:
    """Bytes that tiles may take where this tensor lies."""
    found: int = implementation(__name__, tensor).room(tensor)
    return found


def padded(width: int) -> int:
    """Of a tile that a product of tensor cores takes: a power of two."""
    return max(16, 1 << max(width - 1, 0).bit_length())


def rows_of(width: int) -> int:
    """Candidates of a program of ``logits``: as many as leave x_0 in registers."""
    return max(16, min(PAIRS, 8192 // padded(width)))


def brought(state: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
            ) -> torch.Tensor:  # fmt: skip
    """float32 (R, J) of states (R, E): standardised (not known: the mean), times weight (J, E), plus bias."""
    found: torch.Tensor = implementation(__name__, state).brought(state, mean, spread, weight, bias)
    return found


def fill(
    x: torch.Tensor, pairs: Pairs, told: Told, lookups: Lookups, numbers: Numbers | None, joint: Joint | None
) -> None:
    """Write all columns of x float32 (P, F) but those of ``pool`` and of features that have bags of their own."""
    implementation(__name__, x).fill(x, pairs, told, lookups, numbers, joint)


def pool(
    x: torch.Tensor, pairs: Pairs, flat: torch.Tensor, rows: torch.Tensor, count: torch.Tensor, pooling: Pooling
) -> None:
    """Write a behaviour's columns of x.

    Args:
        x: float32 (P, F), the query's columns filled.
        pairs: of the batch.
        flat: all tables.
        rows: int32 (R, S), of the history's events.
        count: int32 (R,), how many of them are there.
        pooling: weights.
    """
    implementation(__name__, x).pool(x, pairs, flat, rows, count, pooling)


def logits(x: torch.Tensor, dense: Dense) -> torch.Tensor:
    """float32 (2, P): logits and calibrated probabilities of x float32 (P, F)."""
    found: torch.Tensor = implementation(__name__, x).logits(x, dense)
    return found
