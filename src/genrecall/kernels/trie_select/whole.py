"""Selection of a request whose candidates fit into one program's registers: one launch instead of seven.

    T = min { t : |{ d ≤ t }| ≥ W },    d = key_best − key,    found by halving the range of d

The same keys, ties and order as the radix passes; every candidate is read once, and the search runs on registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from genrecall.kernels.trie_select.candidates import block_rows, fill_padding, read_children
from genrecall.kernels.trie_select.radix import ordered_key


@triton.jit
def select_whole(
    logits, logits_stride, logits_row, node, begin, count, child_begin, child_code, masks, mask_stride, mask_row,
    score, level, width, out_begin, out_parent, out_code, out_node, out_score, out_count, broken,
    OVER_CHILDREN: tl.constexpr, FILTERED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program a request; ROWS and COLUMNS hold all its beams and all their children."""
    request = tl.program_id(0)
    row, live, edge, children, source = block_rows(begin, count, node, logits_row, child_begin, ROWS)
    mask = tl.load(mask_row + request) if FILTERED else -1
    own = tl.load(score + row, mask=live, other=0.0)
    _, _, z, exists, eligible = read_children(
        0, logits, logits_stride, source, edge, children, child_code, masks, mask_stride, mask, FILTERED, COLUMNS
    )
    wrong = tl.max((exists & ~(tl.abs(z) < float("inf"))).to(tl.int32), 1)
    if OVER_CHILDREN:
        peak = tl.max(tl.where(exists, z, float("-inf")), 1)
        shift = tl.where(peak == float("-inf"), 0.0, peak)
        normaliser = shift + tl.log(tl.sum(tl.where(exists, tl.exp(z - shift[:, None]), 0.0), 1))
    else:
        normaliser = tl.load(level + source, mask=source >= 0, other=0.0)
    own = tl.where(source >= 0, own - normaliser, own)
    wrong = tl.where(live & ~(tl.abs(own) < float("inf")), 1, wrong)
    tl.store(broken + request, tl.max(wrong, 0))

    # What may not be chosen lies farther than anything that may: no mask is kept.
    total = tl.where(eligible, own[:, None] + z, float("-inf"))
    high = ordered_key(tl.max(tl.max(total, 1), 0))
    low = ordered_key(tl.min(tl.min(tl.where(total > float("-inf"), total, float("inf")), 1), 0))
    distance = (high - ordered_key(total)).to(tl.uint32, bitcast=True)
    found = tl.sum(tl.sum((total > float("-inf")).to(tl.int32), 1), 0)
    need = tl.minimum(tl.load(width + request), found)
    near = tl.zeros([], tl.uint32)
    far = (high - low).to(tl.uint32, bitcast=True) * (need > 0).to(tl.uint32)
    while near < far:
        middle = near + (far - near) // 2
        held = tl.sum(tl.sum((distance <= middle).to(tl.int32), 1), 0)
        # Exactly enough: the rest of the digits cannot matter.
        far = tl.where(held >= need, middle, far)
        near = tl.where(held > need, near, tl.where(held == need, middle, middle + 1))
    less = distance < near
    tie = ((distance == near) & (need > 0)).to(tl.int32)
    room = need - tl.sum(tl.sum(less.to(tl.int32), 1), 0)
    ties = tl.sum(tie, 1)
    rank = (tl.cumsum(ties, 0) - ties)[:, None] + tl.cumsum(tie, 1) - tie
    chosen = (less | ((tie > 0) & (rank < room))).to(tl.int32)
    kept = tl.sum(chosen, 1)
    first = tl.load(out_begin + request)
    at = first + (tl.cumsum(kept, 0) - kept)[:, None] + tl.cumsum(chosen, 1) - chosen
    # Read again rather than kept in registers through the search.
    edges = edge[:, None] + tl.arange(0, COLUMNS)[None, :]
    code = tl.load(child_code + edges, mask=chosen > 0, other=0).to(tl.int32)
    tl.store(out_parent + at, row[:, None] + tl.zeros_like(code), mask=chosen > 0)
    tl.store(out_code + at, code, mask=chosen > 0)
    tl.store(out_node + at, edges + 1, mask=chosen > 0)
    tl.store(out_score + at, total, mask=chosen > 0)
    tl.store(out_count + request, need)
    fill_padding(first + need, tl.load(out_begin + request + 1), out_parent, out_code, out_node, out_score)
