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

from typing import Literal

import numpy as np

from genrecall.errors import ConfigError
from genrecall.sid.placement import Distances, distinct_rows, place, ranks
from genrecall.sid.space import SidSpace
from genrecall.telemetry import Bar

Rule = Literal["reassign", "sinkhorn", "extra_level", "keep"]
RULES: tuple[Rule, ...] = ("reassign", "sinkhorn", "extra_level", "keep")


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
        rank = ranks(distinct_rows(codes)[1])
        return (
            np.column_stack([codes, rank]).astype(np.int32),
            SidSpace((*space.codes, int(rank.max(initial=0)) + 1)),
        )
    if rule not in RULES:
        raise ConfigError("this rule for collisions is unknown", seen=rule, allowed=", ".join(RULES), fix="choose one")
    space.require_capacity(len(codes))
    if rule == "sinkhorn":
        codes = _sinkhorn_prefixes(codes, quantizer, vectors, bar)
    return place(codes, quantizer, vectors, space, taken=np.empty((0, space.levels), np.int32), bar=bar), space


def resolve_new(
    codes: np.ndarray, quantizer: Distances, vectors: np.ndarray, rule: Rule, *, space: SidSpace, taken: np.ndarray,
    bar: Bar | None = None,
) -> np.ndarray:  # fmt: skip
    """SIDs int32 (n, L') of further items, in a space that is fixed, beside the SIDs ``taken`` (I, L') by others."""
    if rule == "keep":
        return codes.astype(np.int32)
    space.require_capacity(len(distinct_rows(taken)[0]) + len(codes))
    if rule == "extra_level":  # the first number may be taken: then `place` finds the next free one
        codes = np.column_stack([codes, np.zeros(len(codes), np.int32)])
    return place(codes, quantizer, vectors, space, taken=taken, bar=bar)


def _sinkhorn_prefixes(codes: np.ndarray, quantizer: Distances, vectors: np.ndarray, bar: Bar | None) -> np.ndarray:
    """Last codes anew under every prefix that has a collision, by one entropic assignment a prefix."""
    groups, prefixes = distinct_rows(codes)[1], distinct_rows(codes[:, :-1])[1]
    shared = np.bincount(groups)[groups] > 1
    crowded = np.flatnonzero(np.isin(prefixes, np.unique(prefixes[shared])))
    order = crowded[np.argsort(prefixes[crowded], kind="stable")]
    codes = codes.copy()
    level = codes.shape[1] - 1
    if bar is not None:
        bar.expect(len(order))
    for rows in np.split(order, np.flatnonzero(np.diff(prefixes[order])) + 1):
        if len(rows):
            codes[rows, level] = balanced(quantizer.distances(vectors[rows], codes[rows], level)).argmax(1)
            if bar is not None:
                bar.advance(len(rows))
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
