"""Radix selection over CSR children: every pass walks the children of every beam again, nothing is laid out.

    key = ordered bits of s_m + z_mc − log Σ exp z;   d = (key_best − key) · 2^k, so that the range in play has 32 bits;
    three histograms of 11 + 11 + 10 bits of d find the W-th smallest exactly; then rows are counted, then written

Radix selection as in Alabi et al. 2012 ("Fast k-selection algorithms for graphics processors", ACM JEA 17). We deviate:
digits are taken of the distance to the best, which spreads log-probabilities over all bins and ends ties of neighbours;
a beam whose best child cannot reach the cut is skipped; ties are broken by counting in SID order, so no sort is needed
and the answer comes out in SID order. Seven launches, none of which needs the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton

from genrecall.kernels.trie_select.candidates import level_normaliser, measure
from genrecall.kernels.trie_select.radix import BINS, count_rows, histogram, write

if TYPE_CHECKING:
    from genrecall.kernels.trie_select import Beams, Children, NodeFilter

_ELEMENTS = 2048
"""Candidates a program looks at in one step."""


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Rows and children of one step of a program, and all rows of a request as one vector."""

    rows: int
    columns: int
    beams: int
    warps: int

    @classmethod
    def of(cls, most_beams: int, most_children: int) -> _Blocks:
        columns = min(triton.next_power_of_2(max(most_children, 1)), _ELEMENTS)
        beams = triton.next_power_of_2(max(most_beams, 1))
        rows = min(beams, _ELEMENTS // columns)
        return cls(rows=rows, columns=columns, beams=beams, warps=8 if rows * columns > 1024 else 4)


def trie_select(
    logits: torch.Tensor,
    beams: Beams,
    children: Children,
    width: torch.Tensor,
    begin: torch.Tensor,
    rows: int,
    most_beams: int,
    over_children: bool,
    node_filter: NodeFilter | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns parent, code, node, score, count, broken."""
    device, requests = logits.device, len(width)
    blocks = _Blocks.of(most_beams, children.most)
    grid = (requests, triton.cdiv(max(most_beams, 1), blocks.rows))
    shape = {"ROWS": blocks.rows, "COLUMNS": blocks.columns, "num_warps": blocks.warps}
    base, best, worst = torch.empty(3, len(beams.node), dtype=torch.float32, device=device).unbind(0)
    # One memset: histograms of three digits, what is broken, how many were found.
    zeros = torch.zeros(requests * (3 * BINS + 1), dtype=torch.int32, device=device)
    bins, broken = zeros[: 3 * requests * BINS].view(3, requests, BINS), zeros[3 * requests * BINS :]
    state = torch.empty(requests, 8, dtype=torch.int32, device=device)
    fewer, equal = torch.empty(2, len(beams.node), dtype=torch.int32, device=device).unbind(0)
    masks, mask_row = (node_filter.allowed, node_filter.row) if node_filter else (logits, width)
    level = logits if over_children else level_normaliser(logits)
    candidates = (
        logits, logits.stride(0), beams.logits_row, beams.node, beams.ranges.begin, beams.ranges.count, children.begin,
        children.code, masks, masks.stride(0), mask_row,
    )  # fmt: skip
    filtered = {"FILTERED": node_filter is not None}
    measure[grid](
        *candidates, beams.score, level, base, best, worst, broken, OVER_CHILDREN=over_children, **filtered, **shape
    )
    for digit in range(3):
        histogram[grid](
            *candidates, base, best, worst, width, state, bins, requests, DIGIT=digit, BEAMS=blocks.beams, **filtered,
            **shape,
        )  # fmt: skip
    count_rows[grid](*candidates, base, best, state, bins, requests, fewer, equal, **filtered, **shape)
    parent, code, node = torch.empty(3, rows, dtype=torch.int32, device=device).unbind(0)
    score = torch.empty(rows, dtype=torch.float32, device=device)
    found = torch.empty(requests, dtype=torch.int32, device=device)
    write[grid](
        *candidates, base, state, fewer, equal, begin, parent, code, node, score, found, BEAMS=blocks.beams, **filtered,
        **shape,
    )  # fmt: skip
    return parent, code, node, score, found, broken


def log_normaliser(
    logits: torch.Tensor, logits_row: torch.Tensor, node: torch.Tensor, children: Children, over_children: bool
) -> torch.Tensor:
    """See the contract in ``__init__``: minus the base of rows whose score is 0, all taken for one request's."""
    device, rows = logits.device, len(node)
    blocks = _Blocks.of(rows, children.most)
    base, best, worst = torch.empty(3, rows, dtype=torch.float32, device=device).unbind(0)
    zero = torch.zeros(rows, dtype=torch.float32, device=device)
    begin = torch.zeros(1, dtype=torch.int32, device=device)
    count = torch.full((1,), rows, dtype=torch.int32, device=device)
    level = logits if over_children else level_normaliser(logits)
    measure[(1, triton.cdiv(rows, blocks.rows))](
        logits, logits.stride(0), logits_row, node, begin, count, children.begin, children.code, logits, 0, begin, zero,
        level, base, best, worst, torch.empty(1, dtype=torch.int32, device=device), OVER_CHILDREN=over_children,
        FILTERED=False, ROWS=blocks.rows, COLUMNS=blocks.columns, num_warps=blocks.warps,
    )  # fmt: skip
    return -base
