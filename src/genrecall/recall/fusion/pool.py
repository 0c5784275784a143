"""The union of several channels' lists, as flat arrays.

    pool(r) = ∪_c {items of list_c(r)},    evidence_c(j) = (place, score) of j in list_c(r), if place ≤ top

The combination of evidence after Fox & Shaw, "Combination of multiple searches" (TREC-2, 1993). Deviation: an item
that a channel only lists to fill its list up (score 0, as channels complete short lists by popularity) joins the pool
without evidence; such items stand behind all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from genrecall.catalog.histories import offsets_of
from genrecall.recall.channel import Candidates
from genrecall.recall.selection import Popularity


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """P candidates of R requests with the evidence of C channels, grouped by request.

    Attributes:
        offsets: int64 (R+1,); request ``r`` owns the candidates ``offsets[r]:offsets[r + 1]``.
        items: int32 (P,), distinct and rising in a request.
        ranks: int32 (P, C) place in each channel's list from 1; 0 without evidence.
        scores: float32 (P, C) the channels' scores; NaN without evidence.
        popularity: of the catalog's I items; breaks ties.
    """

    offsets: np.ndarray
    items: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray
    popularity: Popularity

    @classmethod
    def of(cls, candidates: Sequence[Candidates], popularity: Popularity, top: int, depth: int | None = None) -> Pool:
        """Join the lists of C ≥ 1 channels for the same R requests.

        Args:
            candidates: one a channel.
            popularity: of the catalog.
            top: places of a list that are evidence.
            depth: places that are joined; ``top`` if None.
        """
        num_requests, num_items = len(candidates[0].items), len(popularity)
        assert all(len(answer.items) == num_requests for answer in candidates), "channels answer the same requests"
        cut = depth or top
        if num_requests == 1:
            found = cls._of_one(candidates, popularity, top, cut)
            if found is not None:
                return found
        items = np.concatenate([answer.items[:, :cut] for answer in candidates], axis=1)
        scores = np.concatenate([answer.scores[:, :cut] for answer in candidates], axis=1)
        places, channels = _columns(tuple(min(answer.items.shape[1], cut) for answer in candidates))
        listed = np.flatnonzero(items >= 0)
        rows, columns = np.divmod(listed, items.shape[1])
        keys = rows * num_items + items.ravel()[listed]
        # np.unique with its inverse, without its detours: a service joins few lists at a time.
        order = keys.argsort(kind="stable")
        keys, listed, columns = keys[order], listed[order], columns[order]
        is_new = np.ones(len(keys), dtype=bool)
        is_new[1:] = keys[1:] != keys[:-1]
        joined, where = keys[is_new], is_new.cumsum() - 1
        rows = joined // max(num_items, 1)
        all_ranks = np.zeros((len(joined), len(candidates)), dtype=np.int32)
        all_scores = np.full((len(joined), len(candidates)), np.nan, dtype=np.float32)
        channel, place = channels[columns], places[columns]
        all_ranks[where, channel] = np.where(place <= top, place, 0)
        all_scores[where, channel] = scores.ravel()[listed]
        all_ranks[_fillers(rows, all_scores, num_requests)] = 0
        all_scores[all_ranks == 0] = np.nan
        return cls(
            offsets=offsets_of(np.bincount(rows, minlength=num_requests)),
            items=(joined - rows * num_items).astype(np.int32),
            ranks=all_ranks,
            scores=all_scores,
            popularity=popularity,
        )

    @classmethod
    def _of_one(cls, candidates: Sequence[Candidates], popularity: Popularity, top: int, cut: int) -> Pool | None:
        """``of`` for one request, as a service asks all the time; None where a list is filled up.

        The same pool in half as many steps: of so few candidates the steps are what takes time.
        """
        items = np.concatenate([answer.items[0, :cut] for answer in candidates])
        scores = np.concatenate([answer.scores[0, :cut] for answer in candidates])
        places, channels = _columns(tuple(min(answer.items.shape[1], cut) for answer in candidates))
        if items.min(initial=0) < 0:
            listed = items >= 0
            items, scores, places, channels = items[listed], scores[listed], places[listed], channels[listed]
        if not scores.all() or places.max(initial=0) > top:
            return None
        order = items.argsort(kind="stable")
        items = items[order]
        is_new = np.ones(len(items), dtype=bool)
        np.not_equal(items[1:], items[:-1], out=is_new[1:])
        joined = items[is_new]
        cells = (is_new.cumsum() - 1) * len(candidates) + channels[order]
        ranks = np.zeros((len(joined), len(candidates)), dtype=np.int32)
        evidence = np.full(ranks.shape, np.nan, dtype=np.float32)
        ranks.reshape(-1)[cells], evidence.reshape(-1)[cells] = places[order], scores[order]
        offsets = np.array([0, len(joined)])
        return cls(offsets=offsets, items=joined, ranks=ranks, scores=evidence, popularity=popularity)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> np.ndarray:
        """int64 (P,) the request of each candidate."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def known(self) -> np.ndarray:
        """bool (P,): whether any channel has evidence."""
        return np.asarray((self.ranks > 0).any(axis=1))

    @cached_property
    def tie(self) -> np.ndarray:
        """int64 (P,) what orders equal scores: the best place in any list, then popularity, then the index."""
        return self._tie(slice(None))

    def _tie(self, where: np.ndarray | slice) -> np.ndarray:
        ranks, nowhere = self.ranks[where], np.iinfo(np.int32).max
        first = np.where(ranks > 0, ranks, nowhere).min(axis=1, initial=nowhere)
        return first.astype(np.int64) * max(len(self.popularity), 1) + self.popularity.place[self.items[where]]

    def find(self, targets: np.ndarray) -> np.ndarray:
        """int64 (R,) where each request's target (R,) stands among the candidates; −1 where it does not."""
        num_items = max(len(self.popularity), 1)
        keys = self.rows * num_items + self.items
        asked = np.arange(len(self)) * num_items + targets
        where = np.searchsorted(keys, asked)
        found = where < len(keys)
        found[found] = keys[where[found]] == asked[found]
        return np.where(found, where, -1)

    def take(self, requests: np.ndarray) -> Pool:
        """The pool of these requests (R',), in this order."""
        lengths = np.diff(self.offsets)[requests]
        offsets = offsets_of(lengths)
        where = np.repeat(self.offsets[requests] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Pool(
            offsets=offsets,
            items=self.items[where],
            ranks=self.ranks[where],
            scores=self.scores[where],
            popularity=self.popularity,
        )

    def without(self, channel: int) -> Pool:
        """The same candidates, as if this channel had not answered."""
        ranks, scores = self.ranks.copy(), self.scores.copy()
        ranks[:, channel], scores[:, channel] = 0, np.nan
        return Pool(offsets=self.offsets, items=self.items, ranks=ranks, scores=scores, popularity=self.popularity)

    def places(self, values: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """int64 (R,) place from 1 of the candidates ``goals`` (R,; −1: 0) when ordered by ``values`` float (P,)."""
        values = np.where(self.known, values, -np.inf)
        asked = np.flatnonzero(goals >= 0)
        goal, tie = np.full(len(self), np.inf), np.zeros(len(self), np.int64)
        goal[asked], tie[asked] = values[goals[asked]], self.tie[goals[asked]]
        ahead = (values > goal[self.rows]) | ((values == goal[self.rows]) & (self.tie < tie[self.rows]))
        found = np.bincount(self.rows[ahead], minlength=len(self)) + 1
        return np.where(goals >= 0, found, 0)

    def best(self, values: np.ndarray, k: int) -> Candidates:
        """The ``k`` candidates of each request with the largest ``values`` float (P,).

        Candidates without evidence come last, by popularity, with the last score before them (0 if there is none).
        """
        key = np.where(self.known, -values, np.inf)
        if len(self) == 1 and 0 < k < len(key):  # what k others stand before needs no order
            near = np.flatnonzero(key <= np.partition(key, k - 1)[k - 1])
            order = near[np.lexsort((self._tie(near), key[near]))][:k]
            if np.isfinite(key[order[-1]]):  # all have evidence
                return Candidates(items=self.items[None, order], scores=values[None, order].astype(np.float32))
        else:
            order = np.lexsort((self.tie, key, self.rows))
        rows = self.rows[order]
        column = np.arange(len(order)) - self.offsets[rows]
        kept = column < k
        order, rows, column = order[kept], rows[kept], column[kept]
        items = np.full((len(self), k), -1, dtype=np.int32)
        scores = np.full((len(self), k), -np.inf, dtype=np.float32)
        items[rows, column] = self.items[order]
        scores[rows, column] = np.where(self.known[order], values[order], np.inf)
        lowest = np.minimum.accumulate(scores, axis=1)
        scores[items >= 0] = np.where(np.isposinf(lowest), 0.0, lowest)[items >= 0]
        return Candidates(items=items, scores=scores)


def _fillers(rows: np.ndarray, scores: np.ndarray, num_requests: int) -> np.ndarray:
    """bool (P, C): scores of exactly 0 in lists that hold no negative score."""
    zero = scores == 0
    if not zero.any():
        return zero
    signed = np.zeros((num_requests, scores.shape[1]), dtype=bool)
    below = np.nonzero(scores < 0)
    signed[rows[below[0]], below[1]] = True
    return np.asarray(zero & ~signed[rows])


@lru_cache(maxsize=256)
def _columns(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """int64 (Σ lengths,) place from 1 and channel of each column of lists that stand side by side."""
    places = np.concatenate([np.arange(1, length + 1) for length in lengths])
    return places, np.repeat(np.arange(len(lengths)), lengths)
