"""A plan as tensors: the only place where host data goes to the device, in one copy of 32-bit integers.

    | table R·Q | length R | new R | there R | last R | filter R | seed R | cap R | starts R+1 | widths L·R |
    | begins L·(R+1) | token T | position T | slot T |

Fields, and rows of ``widths`` and ``begins``, start at multiples of 16 bytes. All but the last three depend on what a
batch's beams need, those on its prompts, so that the addresses of the first, which the graphs of the levels read, do
not depend on T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, chain

import numpy as np
import torch

from genrecall.engine.device.decoder import PromptRows
from genrecall.engine.device.staging import aligned, laid_out
from genrecall.engine.host.step import Sizes, StepPlan
from genrecall.kernels.rows import RowRanges


@dataclass(frozen=True)
class BatchShape:
    """The static sizes of a batch.

    Attributes:
        requests: R.
        pages: Q, places in a prompt's row of the page table.
        levels: L.
        tokens: T.
    """

    requests: int
    pages: int
    levels: int
    tokens: int

    @classmethod
    def of(cls, sizes: Sizes) -> BatchShape:
        """Of what a plan is padded to."""
        return _known(sizes.requests, sizes.pages, len(sizes.rows), sizes.tokens)

    @cached_property
    def fields(self) -> dict[str, slice]:
        """Where each field lies."""
        r, levels, t = self.requests, self.levels, self.tokens
        sizes = {
            "table": r * self.pages, "length": r, "new": r, "there": r, "last": r, "filter": r, "seed": r, "cap": r,
            "starts": r + 1,
            "widths": levels * aligned(r), "begins": levels * aligned(r + 1), "token": t, "position": t, "slot": t,
        }  # fmt: skip
        return laid_out(sizes)

    @property
    def size(self) -> int:
        """Integers in all."""
        return self.fields["slot"].stop


_known = lru_cache(maxsize=1024)(BatchShape)
"""The same object for the same sizes, with its fields laid out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Views of a plan's integers on the device.

    Attributes:
        tokens: int32 (T,).
        prompts: where they belong.
        filters: int32 (R,), the row of each request's item filter; -1 for none.
        seeds: int32 (R,), of requests that want a sample; -1 for none.
        caps: int32 (R,), the most beams under one first code.
        widths: int32 (L, R).
        begins: int32 (L, R+1), the first row of each request after each level.
        root: one row for each request that is there.
    """

    tokens: torch.Tensor
    prompts: PromptRows
    filters: torch.Tensor
    seeds: torch.Tensor
    caps: torch.Tensor
    widths: torch.Tensor
    begins: torch.Tensor
    root: RowRanges

    @classmethod
    def view(cls, flat: torch.Tensor, shape: BatchShape, place: torch.Tensor) -> Batch:
        """Views of int32 ``flat``; ``place`` is int32 0, 1, 2 … of more than R."""
        at = {name: flat[where] for name, where in shape.fields.items()}
        r = shape.requests
        root = RowRanges(begin=place[: r + 1], count=at["there"])
        prompts = PromptRows(
            position=at["position"],
            slot=at["slot"],
            ranges=RowRanges(begin=at["starts"], count=at["new"]),
            last=at["last"],
            last_ranges=root,
            table=at["table"].view(r, shape.pages),
            length=at["length"],
        )
        return cls(
            tokens=at["token"],
            prompts=prompts,
            filters=at["filter"],
            seeds=at["seed"],
            caps=at["cap"],
            widths=at["widths"].view(shape.levels, -1)[:, :r],
            begins=at["begins"].view(shape.levels, -1)[:, : r + 1],
            root=root,
        )


def pack(
    plan: StepPlan,
    sizes: Sizes,
    prompts: Sequence[Sequence[int]],
    filters: Sequence[int],
    seeds: Sequence[int],
    caps: Sequence[int],
    slots: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write a plan.

    Args:
        plan: seats.
        sizes: what it is padded to.
        prompts: the tokens of each seat.
        filters: the row of each seat's item filter, -1 for none.
        seeds: of each seat, -1 for none.
        caps: of each seat.
        slots: of ``PromptMemory``.
        out: int32, as many as ``BatchShape.size`` says.
    """
    shape = BatchShape.of(sizes)
    fields, seats, r, count = shape.fields, plan.seats, shape.requests, len(plan.seats)
    out[:] = 0
    for name in ("filter", "seed", "slot"):
        out[fields[name]] = -1
    out[fields["starts"]][count:] = shape.tokens  # empty places come after the padding, which is the last request's
    new = [seat.length - seat.cached for seat in seats]
    ends = list(accumulate(new))
    total = ends[-1]
    # Fields from ``length`` to ``cap`` follow each other, one place a request in each.
    by_request = out[fields["length"].start : fields["starts"].start].reshape(-1, aligned(r))
    last, lengths = [end - 1 for end in ends], [seat.length for seat in seats]
    by_request[:, :count] = [lengths, new, [1] * count, last, filters, seeds, caps]
    out[fields["starts"]][1:count] = ends[:-1]
    read = chain.from_iterable(tokens[seat.cached :] for seat, tokens in zip(seats, prompts, strict=True))
    out[fields["token"]][:total] = np.fromiter(read, np.int32, total)
    # All is looked up: after a pause, arithmetic takes the host longer to begin with.
    page_tokens, counted = slots.shape[1], slots.reshape(-1)
    assert not any(seat.cached % page_tokens for seat in seats), "reading begins with a page"
    fresh = [page for seat in seats for page in seat.pages[seat.cached // page_tokens :]]
    places, at = slots.take(fresh, axis=0).reshape(-1), 0
    table, position, slot = out[fields["table"]].reshape(r, -1), out[fields["position"]], out[fields["slot"]]
    for row, (seat, begin, end) in enumerate(zip(seats, [0, *ends], ends, strict=False)):
        table[row, : len(seat.pages)] = seat.pages
        position[begin:end] = counted[seat.cached : seat.length]
        slot[begin:end] = places[at : at + end - begin]
        at += len(seat.pages) * page_tokens - seat.cached
    by_level = list(zip(*(seat.rows for seat in seats), strict=True))
    widths = out[fields["widths"]].reshape(shape.levels, -1)
    after = out[fields["begins"]].reshape(shape.levels, -1)
    widths[:, :count] = by_level
    after[:, 1:count] = [list(accumulate(level[:-1])) for level in by_level]
    after[:, count : r + 1] = [[rows] for rows in sizes.rows]


def request_of(begin: torch.Tensor, rows: int) -> torch.Tensor:
    """int64 (rows,): the request whose range, padding included, holds each row."""
    row = torch.arange(rows, dtype=begin.dtype, device=begin.device)
    return (torch.searchsorted(begin, row, right=True) - 1).clamp_(max=len(begin) - 2)
