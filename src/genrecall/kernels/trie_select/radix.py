"""Passes of the radix selection over a request's candidates; see ``triton`` for the formula and the citation.

State of a request, int32: lowest key in play · key of the best · left shift of distances · digit 0 · digit 1 · still
needed at digit 1 · at digit 2 · threshold distance; the last cell takes the room for ties once the threshold is known.
"""

from __future__ import annotations

import triton
import triton.language as tl

from genrecall.kernels.trie_select.candidates import block_rows, fill_padding, read_children

BINS = 2048
_LOW, _HIGH, _SHIFT, _PREFIX, _NEED, _CUT, _ROOM = (tl.constexpr(i) for i in range(7))
_CELLS = tl.constexpr(8)


@triton.jit
def ordered_key(total):
    """Bits of a float as an int32 of the same order; both zeros are one."""
    bits = tl.where(total == 0.0, 0.0, total).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _distance(total, low, high, shift):
    """uint32 distance to the best, and whether the candidate is in play."""
    key = ordered_key(total)
    distance = (high - key).to(tl.uint32, bitcast=True) << shift.to(tl.uint32)
    return distance, (key >= low) & (key <= high)


@triton.jit
def _find(bins, need, BINS: tl.constexpr):
    """The bin in which the ``need``-th smallest lies (the last one where there are fewer), and what is needed of it."""
    b = tl.arange(0, BINS)
    held = tl.load(bins + b)
    chosen = tl.minimum(tl.sum((tl.cumsum(held, 0) < need).to(tl.int32), 0), BINS - 1)
    return chosen, need - tl.sum(tl.where(b < chosen, held, 0), 0)


@triton.jit
def _range(begin, count, best, worst, width, request, BEAMS: tl.constexpr):
    """Keys between which the cut must lie, and the shift that makes their distance fill 32 bits."""
    i = tl.arange(0, BEAMS)
    live = i < tl.load(count + request)
    row = tl.load(begin + request) + i
    top = tl.load(best + row, mask=live, other=float("-inf"))
    bottom = tl.load(worst + row, mask=live, other=float("inf"))
    some = top > float("-inf")
    # With as many beams as are wanted, each beam's best is a candidate: the least of these cannot be cut.
    enough = tl.sum(some.to(tl.int32), 0) >= tl.load(width + request)
    least = tl.where(enough, tl.min(tl.where(some, top, float("inf")), 0), tl.min(bottom, 0))
    high, low = ordered_key(tl.max(top, 0)), ordered_key(least)
    span = (high - low).to(tl.uint32, bitcast=True)
    bits = tl.sum(((span >> tl.arange(0, 32).to(tl.uint32)) > 0).to(tl.int32), 0)
    return low, high, tl.minimum(32 - bits, 31)


@triton.jit(do_not_specialize=["requests"])
def histogram(
    logits, logits_stride, logits_row, node, begin, count, child_begin, child_code, masks, mask_stride, mask_row,
    base, best, worst, width, state, bins, requests,
    DIGIT: tl.constexpr, BEAMS: tl.constexpr, FILTERED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BINS: tl.constexpr = 2048,
):  # fmt: skip
    """Count one digit of the distances that share the digits found so far."""
    request = tl.program_id(0)
    if tl.program_id(1) * ROWS >= tl.load(count + request):
        return
    state += request * _CELLS
    if DIGIT == 0:
        low, high, shift = _range(begin, count, best, worst, width, request, BEAMS)
        prefix = tl.zeros([], tl.uint32)
        if tl.program_id(1) == 0:
            tl.store(state + _LOW, low)
            tl.store(state + _HIGH, high)
            tl.store(state + _SHIFT, shift)
    else:
        low, high, shift = tl.load(state + _LOW), tl.load(state + _HIGH), tl.load(state + _SHIFT)
        before = bins + ((DIGIT - 1) * requests + request) * BINS
        if DIGIT == 1:
            found, need = _find(before, tl.load(width + request), BINS)
            prefix = found.to(tl.uint32)
        else:
            found, need = _find(before, tl.load(state + _NEED + 0), BINS)
            prefix = tl.load(state + _PREFIX).to(tl.uint32) * BINS + found.to(tl.uint32)
        if tl.program_id(1) == 0:
            # Digit 1 leaves its findings for digit 2, which leaves its own elsewhere: others may still be reading.
            tl.store(state + (_PREFIX if DIGIT == 1 else _CUT), prefix.to(tl.int32, bitcast=True))
            tl.store(state + (_NEED if DIGIT == 1 else _ROOM), need)
    row, live, edge, children, source = block_rows(begin, count, node, logits_row, child_begin, ROWS)
    mask = tl.load(mask_row + request) if FILTERED else -1
    own = tl.load(base + row, mask=live, other=float("-inf"))
    # Where even the best child is beyond the digits found, there is nothing to count.
    nearest, near = _distance(tl.load(best + row, mask=live, other=float("-inf")), low, high, shift)
    if DIGIT > 0:
        near = near & ((nearest >> (32 - 11 * DIGIT)) <= prefix)
    bins += (DIGIT * requests + request) * BINS
    for start in range(0, tl.max(tl.where(near, children, 0), 0), COLUMNS):
        _, _, z, _, eligible = read_children(
            start, logits, logits_stride, source, edge, children, child_code, masks, mask_stride, mask, FILTERED,
            COLUMNS,
        )  # fmt: skip
        distance, inside = _distance(own[:, None] + z, low, high, shift)
        counted = eligible & inside & near[:, None]
        if DIGIT > 0:
            counted = counted & ((distance >> (32 - 11 * DIGIT)) == prefix)
        if DIGIT == 2:
            digit = (distance & 1023).to(tl.int32)
        else:
            digit = ((distance >> (21 - 11 * DIGIT)) & (BINS - 1)).to(tl.int32)
        tl.atomic_add(bins + digit, 1, mask=counted, sem="relaxed")


@triton.jit(do_not_specialize=["requests"])
def count_rows(
    logits, logits_stride, logits_row, node, begin, count, child_begin, child_code, masks, mask_stride, mask_row,
    base, best, state, bins, requests, fewer, equal,
    FILTERED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BINS: tl.constexpr = 2048,
):  # fmt: skip
    """Per row: children nearer than the threshold, and children at it."""
    request = tl.program_id(0)
    if tl.program_id(1) * ROWS >= tl.load(count + request):
        return
    state += request * _CELLS
    low, high, shift = tl.load(state + _LOW), tl.load(state + _HIGH), tl.load(state + _SHIFT)
    found, room = _find(bins + (2 * requests + request) * BINS, tl.load(state + _ROOM), 1024)
    cut = tl.load(state + _CUT).to(tl.uint32, bitcast=True) * 1024 + found.to(tl.uint32)
    if tl.program_id(1) == 0:
        tl.store(state + _PREFIX, cut.to(tl.int32, bitcast=True))
        tl.store(state + _NEED, room)
    row, live, edge, children, source = block_rows(begin, count, node, logits_row, child_begin, ROWS)
    mask = tl.load(mask_row + request) if FILTERED else -1
    own = tl.load(base + row, mask=live, other=float("-inf"))
    nearest, near = _distance(tl.load(best + row, mask=live, other=float("-inf")), low, high, shift)
    near = near & (nearest <= cut)
    less = tl.zeros([ROWS], tl.int32)
    same = tl.zeros([ROWS], tl.int32)
    for start in range(0, tl.max(tl.where(near, children, 0), 0), COLUMNS):
        _, _, z, _, eligible = read_children(
            start, logits, logits_stride, source, edge, children, child_code, masks, mask_stride, mask, FILTERED,
            COLUMNS,
        )  # fmt: skip
        distance, inside = _distance(own[:, None] + z, low, high, shift)
        inside = eligible & inside & near[:, None]
        less += tl.sum((inside & (distance < cut)).to(tl.int32), 1)
        same += tl.sum((inside & (distance == cut)).to(tl.int32), 1)
    tl.store(fewer + row, less, mask=live)
    tl.store(equal + row, same, mask=live)


@triton.jit
def write(
    logits, logits_stride, logits_row, node, begin, count, child_begin, child_code, masks, mask_stride, mask_row,
    base, state, fewer, equal, out_begin, out_parent, out_code, out_node, out_score, out_count,
    BEAMS: tl.constexpr, FILTERED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Put the chosen children in SID order at the request's place, and fill the rest of it."""
    request, block = tl.program_id(0), tl.program_id(1)
    beams = tl.load(count + request)
    if (block > 0) & (block * ROWS >= beams):
        return
    state += request * _CELLS
    first_row, first_out = tl.load(begin + request), tl.load(out_begin + request)
    i = tl.arange(0, BEAMS)
    less = tl.load(fewer + first_row + i, mask=i < beams, other=0)
    same = tl.load(equal + first_row + i, mask=i < beams, other=0)
    room = tl.where(beams > 0, tl.load(state + _NEED), 0)
    if block == 0:
        total = tl.sum(less, 0) + tl.minimum(room, tl.sum(same, 0))
        tl.store(out_count + request, total)
        fill_padding(first_out + total, tl.load(out_begin + request + 1), out_parent, out_code, out_node, out_score)
    row, live, edge, children, source = block_rows(begin, count, node, logits_row, child_begin, ROWS)
    earlier = i < block * ROWS
    ties_before = tl.sum(tl.where(earlier, same, 0), 0)
    place = first_out + tl.sum(tl.where(earlier, less, 0), 0) + tl.minimum(room, ties_before)
    less = tl.load(fewer + row, mask=live, other=0)
    same = tl.load(equal + row, mask=live, other=0)
    ties_before += tl.cumsum(same, 0) - same
    ties = tl.minimum(tl.maximum(room - ties_before, 0), same)
    kept = less + ties
    place += tl.cumsum(kept, 0) - kept
    cut = tl.load(state + _PREFIX).to(tl.uint32, bitcast=True)
    low, high, shift = tl.load(state + _LOW), tl.load(state + _HIGH), tl.load(state + _SHIFT)
    mask = tl.load(mask_row + request) if FILTERED else -1
    own = tl.load(base + row, mask=live, other=float("-inf"))
    for start in range(0, tl.max(tl.where(kept > 0, children, 0), 0), COLUMNS):
        edges, code, z, _, eligible = read_children(
            start, logits, logits_stride, source, edge, children, child_code, masks, mask_stride, mask, FILTERED,
            COLUMNS,
        )  # fmt: skip
        total = own[:, None] + z
        distance, inside = _distance(total, low, high, shift)
        inside = eligible & inside & (kept > 0)[:, None]
        tie = (inside & (distance == cut)).to(tl.int32)
        taken = tl.cumsum(tie, 1) - tie < ties[:, None]
        chosen = (inside & ((distance < cut) | ((tie > 0) & taken))).to(tl.int32)
        at = place[:, None] + tl.cumsum(chosen, 1) - chosen
        tl.store(out_parent + at, row[:, None] + tl.zeros_like(code), mask=chosen > 0)
        tl.store(out_code + at, code, mask=chosen > 0)
        tl.store(out_node + at, edges + 1, mask=chosen > 0)
        tl.store(out_score + at, total, mask=chosen > 0)
        place += tl.sum(chosen, 1)
        ties = tl.maximum(ties - tl.sum(tie, 1), 0)
