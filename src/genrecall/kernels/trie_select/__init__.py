"""Exact joint top-W over the trie children of every beam of a request, in static shapes: contract and dispatch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from genrecall.kernels.dispatch import implementation
from genrecall.kernels.rows import RowRanges

Normalise = Literal["trie", "level"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Beams:
    """M rows of beams to be extended, in SID order within a request.

    Attributes:
        node: int32 (M,), trie nodes; of live rows alone it must be valid.
        score: float32 (M,), sums so far.
        logits_row: int32 (M,), the row of the logits that scores each beam; -1 where the only child is forced and
            therefore has probability 1 (possible under ``normalise="trie"`` alone).
        ranges: which rows belong to which request.
    """

    node: torch.Tensor
    score: torch.Tensor
    logits_row: torch.Tensor
    ranges: RowRanges


@dataclass(frozen=True, kw_only=True, eq=False)
class Children:
    """The trie as in ``index.layout``: N nodes, edge ``e`` leads to node ``e + 1``. Buffers may be longer than needed.

    Attributes:
        begin: int32, CSR; one more than there are nodes that have children (leaves come last).
        code: uint8, int16 or int32 (≥ N-1,), ascending within a node.
        most: no node of this level has more children, now or after a swap of the buffers' contents. C always holds; a
            tight bound is quicker, and a wrong one loses candidates.
    """

    begin: torch.Tensor
    code: torch.Tensor
    most: int


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeFilter:
    """Candidates that are removed after the normaliser is known: they never change a score.

    Attributes:
        allowed: bool (U, ≥ N), node masks.
        row: int32 (R,), which mask each request has; -1 for none.
    """

    allowed: torch.Tensor
    row: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The chosen children at fixed offsets: request ``r`` has rows ``begin[r] …``, in SID order.

    Attributes:
        parent: int32 (M',), row of the beam that each extends. In padding: 0, as are ``code`` and ``node``.
        code: int32 (M',).
        node: int32 (M',).
        score: float32 (M',), summed log-probability; -inf in padding.
        ranges: ``begin`` as given; ``count`` int32 (R,), how many were found, at most the request's width.
        broken: int32 (R,), 1 where a logit that counts is not finite; the answer of that request is then worthless.
    """

    parent: torch.Tensor
    code: torch.Tensor
    node: torch.Tensor
    score: torch.Tensor
    ranges: RowRanges
    broken: torch.Tensor


def trie_select(
    logits: torch.Tensor,
    beams: Beams,
    children: Children,
    width: torch.Tensor,
    begin: torch.Tensor,
    *,
    rows: int,
    most_beams: int,
    normalise: Normalise,
    node_filter: NodeFilter | None = None,
) -> Selection:
    """Extend live beams by every valid code and keep the best ``width[r]`` of each request ``r``.

    Equal scores at the cut are resolved in favour of the smaller SID.

    Args:
        logits: float32 or bfloat16 (B, C) of the level's codes; only rows that a live beam names are read.
        beams: M rows.
        children: the trie.
        width: int32 (R,), at least 1; 0 in an empty place.
        begin: int32 (R+1,), where each request's survivors are put; at least ``width[r]`` apart.
        rows: M' = ``begin[R]``, known to the host.
        most_beams: the most rows of a request that ``beams.ranges`` can hold.
        normalise: softmax over the node's children ("trie") or over all C codes ("level").
        node_filter: masks, or None.
    """
    run = implementation(__name__, logits).trie_select
    parent, code, node, score, count, broken = run(
        logits, beams, children, width, begin, rows, most_beams, normalise == "trie", node_filter
    )
    ranges = RowRanges(begin=begin, count=count)
    return Selection(parent=parent, code=code, node=node, score=score, ranges=ranges, broken=broken)


def log_normaliser(
    logits: torch.Tensor, logits_row: torch.Tensor, node: torch.Tensor, children: Children, normalise: Normalise
) -> torch.Tensor:
    """``log Σ exp z`` that makes logits log-probabilities, for teacher-forced scores.

    Args:
        logits: float32 or bfloat16 (B, C).
        logits_row: int32 (M,); -1 for a forced row, whose result is 0.
        node: int32 (M,).
        children: the trie.
        normalise: over the node's children or over all codes.

    Returns:
        float32 (M,).
    """
    run = implementation(__name__, logits).log_normaliser
    return run(logits, logits_row, node, children, normalise == "trie")
