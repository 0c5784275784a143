"""SIDs of their own for items that share one: who stays, who moves, and where to.

    one mover after the other, from level 0 down:   a_l = own code while there is room below it,
                                                    else argmin_k d_l(k) over the codes k that have room

Source: serial dictatorship, Satterthwaite and Sonnenschein 1981: whoever comes first takes what it likes best of what
is free; here the nearest SID under its own last prefix, else the nearest under the prefix above, and so on up. We
deviate by playing it a level at a time, which comes to the same: whether there is room below a code depends on how many
went there before, not on where they ended. So distances come in batches, and only where a mover may have to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from genrecall.sid.space import SidSpace
from genrecall.telemetry import Bar

_CHUNK = 16_384
_CELLS_AT_ONCE = 32_000_000


class Distances(Protocol):
    """The part of a quantiser that is needed here."""

    levels: int
    codes: int

    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """See ``Quantizer.distances``."""
        ...


def place(
    codes: np.ndarray, quantizer: Distances, vectors: np.ndarray, space: SidSpace, *, taken: np.ndarray,
    bar: Bar | None = None,
) -> np.ndarray:  # fmt: skip
    """Give every row a SID that nobody in ``taken`` and no other row has; rows that need not move stay.

    Of the rows that share a SID the nearest keeps it. The others move in the order of SIDs, of distance and of rows.

    Time: a few sorts of all rows; the distances of a level for every row that shares its SID, again for those that
    move, and again for those of them whose prefix may be full. The bar counts these.
    """
    sids = codes.astype(np.int32, copy=True)
    taken = taken.astype(np.int32).reshape(-1, space.levels)
    distinct, owned = distinct_rows(np.concatenate([taken, sids]))
    shared = np.bincount(owned, minlength=len(distinct)) > 1
    gone = np.zeros(len(distinct), bool)
    gone[owned[: len(taken)]] = True
    owned = owned[len(taken) :]
    crowded = np.flatnonzero(shared[owned])
    costs = _Costs(quantizer, vectors, space, bar)
    costs.announce(2 * len(crowded) - int((shared & ~gone).sum()))
    own = np.empty(len(crowded), np.float32)
    for low, cost in costs.of(crowded, sids[crowded], space.levels - 1):
        some = slice(low, low + len(cost))
        own[some] = np.take_along_axis(cost, sids[crowded[some], -1:], 1)[:, 0]
    order = crowded[np.lexsort((own, owned[crowded]))]
    # The nearest of each group comes first and keeps the SID, unless it was taken before.
    keeps = np.diff(owned[order], prepend=-1) != 0
    keeps &= ~gone[owned[order]]
    movers = order[~keeps]
    if len(movers):
        sids[movers] = _moved(movers, sids[movers], distinct, costs)
    return sids


def _moved(movers: np.ndarray, sids: np.ndarray, occupied: np.ndarray, costs: _Costs) -> np.ndarray:
    """Free SIDs (n, L) for the movers, in their order, instead of ``sids``, which are all among those ``occupied``."""
    codes = costs.space.codes
    for level in range(len(codes)):
        if prod(codes[level + 1 :]) >= len(occupied) + len(movers):
            continue  # below one code there is room for everybody
        turns, prefixes, rooms = _contest(sids[:, : level + 1], occupied[:, : level + 1], costs.space)
        if level < len(codes) - 1:
            costs.announce(len(turns))
        chosen, before = sids[turns, level], -1
        for low, cost in costs.of(movers[turns], sids[turns], level):
            for at, prefix in enumerate(prefixes[low : low + len(cost)].tolist()):
                if prefix != before:
                    before, room = prefix, rooms(prefix)
                code = chosen[low + at]
                if not room[code]:
                    chosen[low + at] = code = np.where(room[:-1] > 0, cost[at], np.inf).argmin()
                room[code] -= 1
        left = turns[chosen != sids[turns, level]]
        sids[turns, level] = chosen
        sids[left, level + 1 :] = codes[level + 1 :]  # not chosen yet: one too many, below which there is no room
    return sids


def _contest(
    sids: np.ndarray, occupied: np.ndarray, space: SidSpace
) -> tuple[np.ndarray, np.ndarray, Callable[[int], np.ndarray]]:
    """Who may find no room below its code at the last level of ``sids`` (n, ≤ L), when it is its turn.

    Returns:
        Their rows, by prefix and in turn; the number of each one's prefix; and what gives, for such a number, the room
        (C + 1,) that everybody else leaves below each code.
    """
    level = sids.shape[1] - 1
    size, most = space.codes[level], prod(space.codes[level + 1 :])
    nodes, node = distinct_rows(np.concatenate([occupied, sids]))
    begins = _differs(nodes[:, :level])
    prefix, starts = begins.cumsum() - 1, np.append(np.flatnonzero(begins), len(nodes))
    room = np.where(nodes[:, level] < size, most, 0) - np.bincount(node[: len(occupied)], minlength=len(nodes))
    node = node[len(occupied) :]
    # Who finds no room goes to another code, whose last owner then goes on, and so forth. But while a code has room, no
    # more came to it than there are too many under the whole prefix: its first owners are safe.
    surplus = np.bincount(prefix, np.maximum(np.bincount(node, minlength=len(nodes)) - room, 0)).astype(np.int64)
    safe = ranks(node) + surplus[prefix[node]] < room[node]
    room -= np.bincount(node[safe], minlength=len(nodes))

    def rooms(number: int) -> np.ndarray:
        found, stretch = np.full(size + 1, most), slice(starts[number], starts[number + 1])
        found[nodes[stretch, level]] = room[stretch]
        return found

    turns = np.flatnonzero(~safe)
    turns = turns[np.argsort(prefix[node[turns]], kind="stable")]
    return turns, prefix[node[turns]], rooms


@dataclass(frozen=True)
class _Costs:
    """Distances of items to the codes of a level, a bounded number at a time."""

    quantizer: Distances
    vectors: np.ndarray
    space: SidSpace
    bar: Bar | None

    def announce(self, items: int) -> None:
        """Say of how many more items ``of`` will be asked."""
        if self.bar is not None:
            self.bar.expect(items)

    def of(self, items: np.ndarray, sids: np.ndarray, level: int) -> Iterator[tuple[int, np.ndarray]]:
        """Places in ``items`` with the costs (n, C) of the items from there on, after their codes ``sids[:, :level]``.

        The numbers of an extra level are taken in order.
        """
        size = self.space.codes[level]
        step = min(max(_CELLS_AT_ONCE // size, 1), _CHUNK)
        for low in range(0, len(items), step):
            some = items[low : low + step]
            if level == self.quantizer.levels:
                yield low, np.broadcast_to(np.arange(size, dtype=np.float32), (len(some), size))
            else:
                yield low, self.quantizer.distances(self.vectors[some], sids[low : low + step], level)
            if self.bar is not None:
                self.bar.advance(len(some))


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows in lexicographic order, and which of them each row is, int64 (n,)."""
    order = np.lexsort(rows.T[::-1]) if rows.shape[1] else np.arange(len(rows))
    ordered = rows[order]
    first = _differs(ordered)
    which = np.empty(len(rows), np.int64)
    which[order] = first.cumsum() - 1
    return ordered[first], which


def ranks(groups: np.ndarray) -> np.ndarray:
    """int64 (n,): how many earlier rows are of the same group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(groups)))
    found = np.empty(len(groups), np.int64)
    found[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return found


def _differs(rows: np.ndarray) -> np.ndarray:
    """bool (n,): whether a row is another than the one before it."""
    return np.append(np.ones(min(len(rows), 1), bool), (rows[1:] != rows[:-1]).any(1))
