"""Radix selection over CSR children: every pass walks the children of every beam again, nothing is laid out.

    key = ordered bits of s_m + z_mc − log Σ exp z;   d = (key_best − key) · 2^k, so that the range in play has 32 bits;
    three histograms of 11 + 11 + 10 bits of d find the W-th smallest exactly; then rows are counted, then written

Radix selection as in Alabi et al. 2012 ("Fast k-selection algorithms for graphics processors", ACM JEA 17). We deviate:
digits are taken of the distance to the best, which spreads log-probabilities over all bins; a beam whose best child
cannot reach the cut is skipped; ties are broken by counting in SID order, so no sort is needed and the answer comes out
in SID order. Six launches and a memset, none of which needs the host; one launch where a request's candidates fit into
one program (``whole``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton

from genrecall.kernels.dispatch import require_packed
from genrecall.kernels.trie_select.candidates import level_normaliser, measure
from genrecall.kernels.trie_select.radix import BINS, count_rows, histogram, write
from genrecall.kernels.trie_select.whole import select_whole

if TYPE_CHECKING:
    from genrecall.kernels.trie_select import Beams, Children, NodeFilter

_STEP = 2048
"""Candidates a program looks at in one step."""
_CHUNK = 1024
"""Rows that stand for a request where there is none."""
_WHOLE = 16384
"""The most beams times children, both rounded up, that one program keeps in registers."""


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Rows and children of one step of a program."""

    rows: int
    columns: int
    warps: int

    @classmethod
    def of(cls, rows: int, columns: int, elements: int) -> _Blocks:
        """At most so many elements; rows and columns are rounded up to powers of two."""
        columns = min(triton.next_power_of_2(max(columns, 1)), elements)
        rows = min(triton.next_power_of_2(max(rows, 1)), elements // columns)
        return cls(rows=rows, columns=columns, warps=max(4, min(32, rows * columns // 256)))

    def holds(self, rows: int, columns: int) -> bool:
        """Whether one step is enough."""
        return rows <= self.rows and columns <= self.columns


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
    ranges = beams.ranges
    require_packed(beams.node, beams.score, beams.logits_row, ranges.begin, ranges.count, width, begin)
    _check_tables(logits, children, node_filter)
    device, requests = logits.device, len(width)
    whole = _Blocks.of(most_beams, children.most, _WHOLE).holds(most_beams, children.most)
    blocks = _Blocks.of(most_beams, children.most, _WHOLE if whole else _STEP)
    masks, mask_row = (node_filter.allowed, node_filter.row) if node_filter else (logits, width)
    level = logits if over_children else level_normaliser(logits)
    parent, code, node = torch.empty(3, rows, dtype=torch.int32, device=device).unbind(0)
    score = torch.empty(rows, dtype=torch.float32, device=device)
    found = torch.empty(requests, dtype=torch.int32, device=device)
    candidates = (
        logits, logits.stride(0), beams.logits_row, beams.node, ranges.begin, ranges.count, children.begin,
        children.code, masks, masks.stride(0), mask_row,
    )  # fmt: skip
    shape = {
        "FILTERED": node_filter is not None,
        "ROWS": blocks.rows,
        "COLUMNS": blocks.columns,
        "num_warps": blocks.warps,
    }
    if whole:
        broken = torch.empty(requests, dtype=torch.int32, device=device)
        select_whole[(requests,)](
            *candidates, beams.score, level, width, begin, parent, code, node, score, found, broken,
            OVER_CHILDREN=over_children, **shape,
        )  # fmt: skip
        return parent, code, node, score, found, broken
    grid = (requests, triton.cdiv(max(most_beams, 1), blocks.rows))
    all_beams = triton.next_power_of_2(most_beams)
    base, best, worst = torch.empty(3, len(beams.node), dtype=torch.float32, device=device).unbind(0)
    # One memset: histograms of three digits, and what is broken.
    zeros = torch.zeros(requests * (3 * BINS + 1), dtype=torch.int32, device=device)
    bins, broken = zeros[: 3 * requests * BINS], zeros[3 * requests * BINS :]
    state = torch.empty(requests, 8, dtype=torch.int32, device=device)
    fewer, equal = torch.empty(2, len(beams.node), dtype=torch.int32, device=device).unbind(0)
    measure[grid](*candidates, beams.score, level, base, best, worst, broken, OVER_CHILDREN=over_children, **shape)
    for digit in range(3):
        histogram[grid](
            *candidates, base, best, worst, width, state, bins, requests, DIGIT=digit, BEAMS=all_beams, **shape
        )
    count_rows[grid](*candidates, base, best, state, bins, requests, fewer, equal, **shape)
    write[grid](
        *candidates, base, state, fewer, equal, begin, parent, code, node, score, found, BEAMS=all_beams, **shape
    )
    return parent, code, node, score, found, broken


def log_normaliser(
    logits: torch.Tensor, logits_row: torch.Tensor, node: torch.Tensor, children: Children, over_children: bool
) -> torch.Tensor:
    """See the contract in ``__init__``: minus the base of rows whose score is 0, in chunks instead of requests."""
    require_packed(logits_row, node)
    _check_tables(logits, children, None)
    device, rows = logits.device, len(node)
    blocks = _Blocks.of(_CHUNK, children.most, _STEP)
    base, best, worst = torch.empty(3, rows, dtype=torch.float32, device=device).unbind(0)
    zero = torch.zeros(rows, dtype=torch.float32, device=device)
    begin = torch.arange(0, rows, _CHUNK, dtype=torch.int32, device=device)
    count = (rows - begin).clamp(max=_CHUNK)
    level = logits if over_children else level_normaliser(logits)
    measure[(len(begin), triton.cdiv(_CHUNK, blocks.rows))](
        logits, logits.stride(0), logits_row, node, begin, count, children.begin, children.code, logits, 0, begin, zero,
        level, base, best, worst, torch.empty_like(begin), OVER_CHILDREN=over_children, FILTERED=False,
        ROWS=blocks.rows, COLUMNS=blocks.columns, num_warps=blocks.warps,
    )  # fmt: skip
    return -base


def _check_tables(logits: torch.Tensor, children: Children, node_filter: NodeFilter | None) -> None:
    require_packed(children.begin, children.code, *((node_filter.row,) if node_filter else ()))
    tables = (logits, node_filter.allowed) if node_filter else (logits,)
    assert all(table.stride(1) == 1 for table in tables), "rows are contiguous"
