"""What rank 0 tells the others, as plain integers: plans, prompts, candidates and catalogs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from genrecall.engine.device.scoring import Candidates
from genrecall.engine.host.step import Kind, Seat, Sizes, StepPlan
from genrecall.engine.worker.frames import Frame
from genrecall.errors import CapacityError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace


def trie_arrays(trie: Trie) -> dict[str, np.ndarray]:
    """All of a trie but its space.

    Raises:
        CapacityError: 2^31 items or more.
    """
    if trie.num_items >= 2**31:
        raise CapacityError(
            "a catalog is too large to be told", seen=trie.num_items, allowed=f"{2**31 - 1}", fix="split it"
        )
    return {field.name: vars(trie)[field.name].astype(np.int32) for field in fields(trie) if field.name != "space"}


def trie_of(frame: Frame) -> Trie:
    """The trie of a frame with ``trie_arrays`` and the space's ``codes``."""
    names = [field.name for field in fields(Trie) if field.name != "space"]
    wide = {name: frame.arrays[name].astype(np.int64) for name in names}
    narrow = {name: frame.arrays[name] for name in ("child_code", "item_order")}
    return Trie(space=SidSpace(tuple(frame.head["codes"])), **(wide | narrow))


def plan_head(plan: StepPlan, sizes: Sizes) -> dict[str, Any]:
    """A plan and what it is padded to, for a frame's head: lists, since a lone request waits for it to be written."""
    seats = [(seat.job, seat.length, seat.cached, seat.pages, seat.rows) for seat in plan.seats]
    padded = (sizes.requests, sizes.pages, sizes.tokens, sizes.rows, sizes.widest)
    return {"plan": (plan.kind.value, plan.catalog, seats, padded)}


def plan_of(head: Mapping[str, Any]) -> tuple[StepPlan, Sizes]:
    """Those of a head with ``plan_head``."""
    kind, catalog, seats, (requests, pages, tokens, rows, widest) = head["plan"]
    taken = tuple(
        Seat(job=job, length=length, cached=cached, pages=tuple(held), rows=tuple(beams))
        for job, length, cached, held, beams in seats
    )
    return StepPlan(kind=Kind(kind), catalog=catalog, seats=taken), Sizes(requests, pages, tokens, tuple(rows), widest)


def tails(plan: StepPlan, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """The tokens that the batch reads, prompts after each other."""
    read = [np.asarray(tokens[seat.cached :], np.int32) for seat, tokens in zip(plan.seats, prompts, strict=True)]
    return np.concatenate(read)


def prompts_of(plan: StepPlan, arrays: Any) -> list[Sequence[int]]:
    """Prompts with nothing in place of what lies in pages already: nobody reads it."""
    cuts = np.cumsum([seat.length - seat.cached for seat in plan.seats])[:-1]
    tails = np.split(arrays["tokens"], cuts)
    return [[0] * seat.cached + tail.tolist() for seat, tail in zip(plan.seats, tails, strict=True)]


def candidate_arrays(wanted: Sequence[Candidates]) -> tuple[list[list[int]], dict[str, np.ndarray]]:
    """Sizes, for a frame's head, and arrays of each request's candidates."""
    sizes = [[len(one.codes), *map(len, one.prefixes)] for one in wanted]
    arrays = {
        "codes": np.concatenate([one.codes.ravel() for one in wanted]),
        "paths": np.concatenate([one.paths.ravel() for one in wanted]),
        "prefixes": np.concatenate([nodes for one in wanted for nodes in one.prefixes] or [np.empty(0)]),
    }
    return sizes, {name: array.astype(np.int32) for name, array in arrays.items()}


def candidates_of(sizes: list[list[int]], arrays: Any, levels: int) -> list[Candidates]:
    """The other way round, for SIDs of so many levels."""
    counts = np.array([count for count, *_ in sizes])
    codes = np.split(arrays["codes"].reshape(-1, levels), np.cumsum(counts)[:-1])
    paths = np.split(arrays["paths"].astype(np.int64).reshape(-1, levels + 1), np.cumsum(counts)[:-1])
    nodes = [size for _, *rest in sizes for size in rest]
    prefixes = iter(np.split(arrays["prefixes"].astype(np.int64), np.cumsum(nodes)[:-1]) if nodes else [])
    return [
        Candidates(codes=code, paths=path, prefixes=tuple(next(prefixes) for _ in range(levels - 1)))
        for code, path in zip(codes, paths, strict=True)
    ]
