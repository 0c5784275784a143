"""Walking the children of a block of beams, and what a walk measures of them: normaliser, best and worst total.

    base_m = s_m − log Σ_{c' ∈ valid(m)} exp z_mc',    total(m, c) = base_m + z_mc

One pass of an online log-sum-exp (Milakov & Gimelshein 2018, arXiv 1805.02867) where the sum is over children.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def block_rows(begin, count, node, logits_row, child_begin, ROWS: tl.constexpr):
    """The rows of this program: row, live, first edge, children, logits row. Padding has no children."""
    request = tl.program_id(0)
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    live = i < tl.load(count + request)
    row = tl.load(begin + request) + i
    parent = tl.load(node + row, mask=live, other=0)
    source = tl.load(logits_row + row, mask=live, other=-1)
    edge = tl.load(child_begin + parent, mask=live, other=0)
    children = tl.load(child_begin + parent + 1, mask=live, other=0) - edge
    return row, live, edge, children, source


@triton.jit
def read_children(
    start, logits, logits_stride, source, edge, children, child_code, masks, mask_stride, mask,
    FILTERED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One step of a walk, all (ROWS, COLUMNS): edge, code, logit, whether it is a child, whether it may be chosen."""
    column = start + tl.arange(0, COLUMNS)[None, :]
    exists = column < children[:, None]
    edges = edge[:, None] + column
    code = tl.load(child_code + edges, mask=exists, other=0).to(tl.int32)
    scored = exists & (source >= 0)[:, None]
    at = source.to(tl.int64)[:, None] * logits_stride + code
    logit = tl.load(logits + at, mask=scored, other=0.0).to(tl.float32)
    eligible = exists
    if FILTERED:
        if mask >= 0:
            at = mask.to(tl.int64) * mask_stride + edges + 1
            eligible = exists & (tl.load(masks + at, mask=exists, other=0) != 0)
    return edges, code, logit, exists, eligible


@triton.jit
def fill_padding(first, last, out_parent, out_code, out_node, out_score):
    """Harmless values where a request found fewer than its place holds."""
    i = tl.arange(0, 256)
    for start in range(first, last, 256):
        padding = start + i < last
        tl.store(out_parent + start + i, 0, mask=padding)
        tl.store(out_code + start + i, 0, mask=padding)
        tl.store(out_node + start + i, 0, mask=padding)
        tl.store(out_score + start + i, float("-inf"), mask=padding)


@triton.jit
def measure(
    logits, logits_stride, logits_row, node, begin, count, child_begin, child_code, masks, mask_stride, mask_row,
    score, level, base, best, worst, broken,
    OVER_CHILDREN: tl.constexpr, FILTERED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Per row: base, and the largest and smallest total of eligible children (-inf and inf where there is none)."""
    request = tl.program_id(0)
    if tl.program_id(1) * ROWS >= tl.load(count + request):
        return
    row, live, edge, children, source = block_rows(begin, count, node, logits_row, child_begin, ROWS)
    mask = tl.load(mask_row + request) if FILTERED else -1
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    high = tl.full([ROWS], float("-inf"), tl.float32)
    low = tl.full([ROWS], float("inf"), tl.float32)
    wrong = tl.zeros([ROWS], tl.int32)
    for start in range(0, tl.max(children, 0), COLUMNS):
        _, _, z, exists, eligible = read_children(
            start, logits, logits_stride, source, edge, children, child_code, masks, mask_stride, mask, FILTERED,
            COLUMNS,
        )  # fmt: skip
        wrong = tl.maximum(wrong, tl.max((exists & ~(tl.abs(z) < float("inf"))).to(tl.int32), 1))
        high = tl.maximum(high, tl.max(tl.where(eligible, z, float("-inf")), 1))
        low = tl.minimum(low, tl.min(tl.where(eligible, z, float("inf")), 1))
        if OVER_CHILDREN:
            above = tl.maximum(peak, tl.max(tl.where(exists, z, float("-inf")), 1))
            shift = tl.where(above == float("-inf"), 0.0, above)
            terms = tl.where(exists, tl.exp(z - shift[:, None]), 0.0)
            mass = mass * tl.exp(peak - shift) + tl.sum(terms, 1)
            peak = above
    if OVER_CHILDREN:
        normaliser = peak + tl.log(mass)
    else:
        normaliser = tl.load(level + source, mask=source >= 0, other=0.0)
    own = tl.load(score + row, mask=live, other=0.0)
    own = tl.where(source >= 0, own - normaliser, own)
    tl.store(base + row, own, mask=live)
    tl.store(best + row, tl.where(high > float("-inf"), own + high, float("-inf")), mask=live)
    tl.store(worst + row, tl.where(high > float("-inf"), own + low, float("inf")), mask=live)
    wrong = tl.where(live & ~(tl.abs(own) < float("inf")), 1, wrong)
    if tl.max(wrong, 0) > 0:
        tl.store(broken + request, 1)


def level_normaliser(logits: torch.Tensor) -> torch.Tensor:
    """float32 (B,): log Σ exp over all C codes."""
    out = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    block = min(triton.next_power_of_2(logits.shape[1]), 4096)
    _level[(len(logits),)](logits, logits.stride(0), logits.shape[1], out, BLOCK=block, num_warps=4)
    return out


@triton.jit
def _level(logits, logits_stride, codes, out, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * logits_stride
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, codes, BLOCK):
        code = start + tl.arange(0, BLOCK)
        z = tl.load(logits + code, mask=code < codes, other=float("-inf")).to(tl.float32)
        above = tl.maximum(peak, z)
        shift = tl.where(above == float("-inf"), 0.0, above)
        mass = mass * tl.exp(peak - shift) + tl.exp(z - shift)
        peak = above
    top = tl.max(peak, 0)
    tl.store(out + row, top + tl.log(tl.sum(mass * tl.exp(peak - top), 0)))
