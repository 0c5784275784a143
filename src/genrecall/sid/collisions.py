"""From codes, which several items may share, to SIDs: four rules.

    reassign     the item nearest to a shared code keeps it; the others, nearest first, take
                 argmin_k d_i(k) over the codes k still free under their prefix
    sinkhorn     min_P ⟨P, D⟩ − ε H(P) under each crowded prefix, rows of mass 1, columns of mass ≤ 1; then reassign
    extra_level  one more level that numbers the owners of a SID
    keep         several items a SID

Source: LC-Rec (arXiv:2311.09049) solves the last level by Sinkhorn; the extra level is TIGER's (arXiv:2305.05065). We
deviate: where a prefix is full, reassignment climbs to the next nearest code of the level above (and on, up to the
first), so that it succeeds whenever the space has room; and our Sinkhorn bounds the columns by one item instead of
sharing mass equally over all codes, because with fewer items than codes equal shares push items onto far codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np

from genrecall.errors import ConfigError
from genrecall.sid.occupancy import Occupancy, Prefix
from genrecall.sid.space import SidSpace
from genrecall.telemetry import Bar

Rule = Literal["reassign", "sinkhorn", "extra_level", "keep"]
RULES: tuple[Rule, ...] = ("reassign", "sinkhorn", "extra_level", "keep")
_CHUNK = 16_384
_CELLS_AT_ONCE = 32_000_000


class Distances(Protocol):
    """The part of a quantiser that is needed here."""

    levels: int
    codes: int

    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """See ``Quantizer.distances``."""
        ...


def resolve(
    codes: np.ndarray, quantizer: Distances, vectors: np.ndarray, rule: Rule, *, bar: Bar | None = None
) -> tuple[np.ndarray, SidSpace]:
    """SIDs int32 (I, L') and their space from a quantiser's codes int32 (I, L); items keep their rows.

    Raises:
        CapacityError: the rule gives every item a SID of its own and the space is too small for that.
    """
    space = SidSpace.uniform(quantizer.levels, quantizer.codes)
    if rule == "keep":
        return codes.astype(np.int32), space
    if rule == "extra_level":
        rank = _ranks(codes)
        return (
            np.column_stack([codes, rank]).astype(np.int32),
            SidSpace((*space.codes, int(rank.max(initial=0)) + 1)),
        )
    if rule not in RULES:
        raise ConfigError("this rule for collisions is unknown", seen=rule, allowed=", ".join(RULES), fix="choose one")
    space.require_capacity(len(codes))
    if rule == "sinkhorn":
        codes = _sinkhorn_prefixes(codes, quantizer, vectors)
    return place(codes, quantizer, vectors, space, taken=np.empty((0, space.levels), np.int32), bar=bar), space


def resolve_new(
    codes: np.ndarray, quantizer: Distances, vectors: np.ndarray, rule: Rule, *, space: SidSpace, taken: np.ndarray
) -> np.ndarray:
    """SIDs int32 (n, L') of further items, in a space that is fixed, beside the SIDs ``taken`` (I, L') by others."""
    if rule == "keep":
        return codes.astype(np.int32)
    space.require_capacity(len(np.unique(taken, axis=0)) + len(codes))
    if rule == "extra_level":  # the first number may be taken: then `place` finds the next free one
        codes = np.column_stack([codes, np.zeros(len(codes), np.int32)])
    return place(codes, quantizer, vectors, space, taken=taken)


def place(
    codes: np.ndarray, quantizer: Distances, vectors: np.ndarray, space: SidSpace, *, taken: np.ndarray,
    bar: Bar | None = None,
) -> np.ndarray:  # fmt: skip
    """Give every row a SID that nobody in ``taken`` and no other row has; rows that need not move stay.

    Time: a sort of all rows; for those that share a SID, their costs and one look at what is free under their prefix.
    """
    sids = codes.astype(np.int32, copy=True)
    taken = taken.astype(np.int32).reshape(-1, space.levels)
    owners = _groups(np.concatenate([taken, sids]))
    sizes = np.bincount(owners)
    gone = np.zeros(len(sizes), bool)
    gone[owners[: len(taken)]] = True
    owners = owners[len(taken) :]
    crowded = np.flatnonzero(sizes[owners] > 1)
    if not len(crowded):
        return sids
    last = space.levels - 1
    own = np.concatenate([
        np.take_along_axis(cost, sids[rows, last][:, None], 1)[:, 0]
        for rows, cost in _all_costs(crowded, quantizer, vectors, sids, space)
    ])  # fmt: skip
    order = crowded[np.lexsort((crowded, own, owners[crowded]))]
    # The nearest of each group comes first and keeps the SID, unless it was taken before.
    keeps = np.diff(owners[order], prepend=-1) != 0
    keeps &= ~gone[owners[order]]
    movers = order[~keeps]
    stays = np.ones(len(sids), bool)
    stays[movers] = False
    occupied = Occupancy(space, np.concatenate([taken, sids[stays]]))
    for rows, costs in _all_costs(movers, quantizer, vectors, sids, space):
        for row, cost in zip(rows.tolist(), costs, strict=True):
            sid = _nearest_free(row, cost, sids, quantizer, vectors, occupied)
            sids[row] = sid
            occupied.take(sid)
            if bar is not None:
                bar.advance()
    return sids


def _all_costs(
    rows: np.ndarray, quantizer: Distances, vectors: np.ndarray, sids: np.ndarray, space: SidSpace
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows, a bounded number at a time, with their costs (n, C) of the last level's codes."""
    last = space.levels - 1
    step = min(max(_CELLS_AT_ONCE // space.codes[last], 1), _CHUNK)
    for low in range(0, len(rows), step):
        some = rows[low : low + step]
        yield some, _costs(quantizer, vectors[some], sids[some], last, space)


def _nearest_free(
    row: int, cost: np.ndarray, sids: np.ndarray, quantizer: Distances, vectors: np.ndarray, occupied: Occupancy
) -> Prefix:
    """Climb until something is free, then walk down by the nearest code that leads to a free SID."""
    space, sid = occupied.space, tuple(sids[row].tolist())
    level = space.levels - 1
    free = occupied.open_children(sid[:level])
    while not free.any():
        level -= 1
        free = occupied.open_children(sid[:level])
    prefix = sid[:level]
    if level < space.levels - 1:
        cost = _cost_of_one(quantizer, vectors[row], prefix, space)
    while True:
        prefix = (*prefix, int(np.where(free, cost, np.inf).argmin()))
        if len(prefix) == space.levels:
            return prefix
        free = occupied.open_children(prefix)
        cost = _cost_of_one(quantizer, vectors[row], prefix, space)


def _cost_of_one(quantizer: Distances, vector: np.ndarray, prefix: Prefix, space: SidSpace) -> np.ndarray:
    return _costs(quantizer, vector[None], np.array([prefix], np.int32).reshape(1, -1), len(prefix), space)[0]


def _costs(quantizer: Distances, vectors: np.ndarray, codes: np.ndarray, level: int, space: SidSpace) -> np.ndarray:
    """(n, C) costs of the codes of one level; the numbers of an extra level are taken in order."""
    if level == quantizer.levels:
        return np.broadcast_to(np.arange(space.codes[level], dtype=np.float32), (len(vectors), space.codes[level]))
    return quantizer.distances(vectors, codes, level)


def _groups(rows: np.ndarray) -> np.ndarray:
    """int64 (n,): equal rows get equal numbers."""
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def _ranks(codes: np.ndarray) -> np.ndarray:
    """int64 (I,): how many earlier rows are equal."""
    groups = _groups(codes)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(codes)))
    ranks = np.empty(len(codes), np.int64)
    ranks[order] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return ranks


def _sinkhorn_prefixes(codes: np.ndarray, quantizer: Distances, vectors: np.ndarray) -> np.ndarray:
    """Last codes anew under every prefix that has a collision, by one entropic assignment a prefix."""
    shared = np.bincount(_groups(codes))[_groups(codes)] > 1
    prefixes = _groups(codes[:, :-1])
    crowded = np.flatnonzero(np.isin(prefixes, np.unique(prefixes[shared])))
    order = crowded[np.argsort(prefixes[crowded], kind="stable")]
    codes = codes.copy()
    level = codes.shape[1] - 1
    for rows in np.split(order, np.flatnonzero(np.diff(prefixes[order])) + 1):
        if len(rows):
            codes[rows, level] = balanced(quantizer.distances(vectors[rows], codes[rows], level)).argmax(1)
    return codes


def balanced(cost: np.ndarray, *, sharpness: float = 50.0, steps: int = 100) -> np.ndarray:
    """Plan (n, C) that minimises cost with rows of mass min(1, C/n) and columns of mass at most one, in log domain.

    ``sharpness`` is the spread of the costs over ε.
    """
    spread = float(cost.max() - cost.min())
    kernel = -(cost - cost.min()) * (sharpness / spread if spread > 0 else 0.0)
    mass = np.log(min(1.0, cost.shape[1] / cost.shape[0]))
    columns = np.zeros(cost.shape[1])
    for _ in range(steps):
        rows = mass - _log_sum(kernel + columns, 1)
        columns = np.minimum(0.0, -_log_sum(kernel + rows[:, None], 0))
    return np.exp(kernel + rows[:, None] + columns)


def _log_sum(values: np.ndarray, axis: int) -> np.ndarray:
    top = values.max(axis)
    return top + np.log(np.exp(values - np.expand_dims(top, axis)).sum(axis))
