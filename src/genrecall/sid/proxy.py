"""Next-item recall of counts over SIDs: how much a table lets a model share between items, without training one.

    P_k(c | p; s) = (N(s_<k → p c) + α P_{k−1}(c | p; s)) / (N(s_<k → p) + α),   P_{−1} uniform over the children of p
    score(j | h)  = Σ_i γ^{age of i} Π_l P_L(a_l | a_<l; s_i)

N counts how often an item whose SID begins with s_<k was soon followed by one whose SID begins with p c; s_<0 is any
item at all. Source: interpolated back-off as in MacKay and Peto 1995, "A hierarchical Dirichlet language model", here
over the trie of SIDs on both sides. We deviate: not every prefix length is a context, only 0, 1, 2 and all codes, and a
length that groups no fewer items than the one before it is skipped, or long SIDs would be smoothed again and again.

What it is: the recall of *items*, those of one SID ranked by popularity, so that rules for collisions can be compared
too. What it is not: a trained model. It knows no order beyond the age of items, and no text beyond the SIDs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Cases, Split
from genrecall.sid.limits import require
from genrecall.sid.tree import Tree
from genrecall.telemetry import Bar

_CELLS_HELD = 256_000_000  # floats of probabilities in memory at once
_CELLS_ASKED = 2_000_000_000  # ... and computed in all: the number of cases is cut to that
_ROWS_AT_ONCE = 256
BASKET_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class ProxyConfig:
    """Settings of the count model.

    Attributes:
        window: largest distance of a counted pair; it counts 1/distance.
        directed: count forwards only; None: forwards, unless histories are baskets (events of equal time).
        last: newest history items that are read.
        decay: γ, weight of a history item one step older.
        smoothing: α, in events.
        contexts: how many leading codes of the history item are a context, beside all of them.
        cases: at most so many validation cases (a seeded sample).
        history: whether lists may hold items of the history.
        seed: of the sample.
    """

    window: int = 3
    directed: bool | None = None
    last: int = 10
    decay: float = 0.7
    smoothing: float = 10.0
    contexts: tuple[int, ...] = (1, 2)
    cases: int = 20_000
    history: Literal["removed", "kept"] = "removed"
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self,
            (
                ("window", self.window >= 1, "1 or more"),
                ("last", self.last >= 1, "1 or more"),
                ("decay", 0 < self.decay <= 1, "above 0 to 1"),
                ("smoothing", self.smoothing > 0, "more than 0"),
                ("contexts", all(k >= 1 for k in self.contexts), "numbers of codes, 1 or more"),
                ("cases", self.cases >= 1, "1 or more"),
                ("history", self.history in ("removed", "kept"), "removed, kept"),
            ),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ProxyRanks:
    """Where the targets came.

    Attributes:
        cases: int64 (N,) which validation cases were asked.
        users: int32 (N,) whose cases they are.
        ranks: int64 (N,) 1-based rank of the target item among all items.
        met: bool (N,) whether the target was ever counted after one of the history's items: what is left, counts of
            items alone cannot find, and only codes that items share can.
    """

    cases: np.ndarray
    users: np.ndarray
    ranks: np.ndarray
    met: np.ndarray

    def recall(self, k: int, *, unmet: bool = False) -> float:
        """Share of the cases, or of those that were not ``met``, whose target is among the first ``k`` items."""
        ranks = self.ranks[~self.met] if unmet else self.ranks
        return float((ranks <= k).mean()) if len(ranks) else 0.0

    def ndcg(self, k: int) -> float:
        """Mean of 1/log₂(1 + rank) where the target is among the first ``k`` items."""
        return float(np.where(self.ranks <= k, 1 / np.log2(1 + self.ranks), 0).mean())


def proxy_ranks(
    sids: np.ndarray, split: Split, config: ProxyConfig | None = None, *, bar: Bar | None = None
) -> ProxyRanks:
    """Count on the training events and rank the targets of the validation cases.

    Args:
        sids: int32 (I, L).
        split: of events on these items; its test part is not looked at.
        config: settings.
        bar: told of every case.
    """
    config = config or ProxyConfig()
    popularity = split.train.item_counts(len(sids))
    counts = Counts(Tree.of(sids), split.train, config)
    chosen = _sample(split.valid, counts.tree, config)
    cases = split.valid.subset(chosen)
    order = np.empty(len(sids), np.int64)  # among items of equal score: popularity, then place in the catalog
    order[np.lexsort((np.arange(len(sids)), -popularity))] = np.arange(len(sids))
    ranks = np.empty(len(cases), np.int64)
    met = np.empty(len(cases), bool)
    recent = cases.histories.last(config.last)
    block = max(_CELLS_HELD // counts.tree.leaves // config.last, 1)
    if len(counts.tree.leaf_of) * counts.tree.leaves <= _CELLS_HELD:
        block = len(cases)
    for low in range(0, len(cases), block):
        rows = np.arange(low, min(low + block, len(cases)))
        sources = np.unique(counts.tree.leaf_of[recent.take(rows).items])
        chances = counts.probabilities(sources)
        for case in rows.tolist():
            items = recent.of(case)[::-1]
            weights = (config.decay ** np.arange(len(items))).astype(np.float32)
            at = np.searchsorted(sources, counts.tree.leaf_of[items])
            scores = weights @ chances[at] if len(items) else counts.unconditional
            seen = np.unique(cases.histories.of(case)) if config.history == "removed" else np.empty(0, np.int64)
            ranks[case] = _rank(int(cases.targets[case]), scores, seen, counts.tree, order)
            met[case] = counts.met(items, int(cases.targets[case]))
            if bar is not None:
                bar.advance()
    return ProxyRanks(cases=chosen, users=cases.users, ranks=ranks, met=met)


class Counts:
    """Smoothed transition counts between the prefixes of SIDs."""

    def __init__(self, tree: Tree, histories: Histories, config: ProxyConfig) -> None:
        self.tree, self.smoothing = tree, config.smoothing
        depths = (k for k in sorted(set(config.contexts)) if k < len(tree.starts))
        self.depths = [*depths, len(tree.starts)]
        source, target, weight = _pairs(histories, config)
        self._pairs = np.unique(source * np.int64(len(tree.leaf_of)) + target)
        source, target = tree.leaf_of[source], tree.leaf_of[target]
        by_source = np.argsort(source, kind="stable")
        self.target, self.weight = target[by_source], weight[by_source]
        self.first = np.searchsorted(source[by_source], np.arange(tree.leaves + 1))
        popular = np.bincount(tree.leaf_of[histories.items], minlength=tree.leaves).astype(np.float32)[None]
        uniform = [1 / np.bincount(parent)[parent][None].astype(np.float32) for parent in tree.parents]
        self._any_item = self._smoothed(popular, uniform)
        self.unconditional = tree.product(self._any_item)[0]

    def probabilities(self, sources: np.ndarray) -> np.ndarray:
        """Float32 (n, leaves): chances of all SIDs after the SIDs ``sources`` (ascending leaf numbers)."""
        chances = np.empty((len(sources), self.tree.leaves), np.float32)
        for low in range(0, len(sources), _ROWS_AT_ONCE):
            chances[low : low + _ROWS_AT_ONCE] = self._chunk(sources[low : low + _ROWS_AT_ONCE])
        return chances

    def met(self, items: np.ndarray, target: int) -> bool:
        """Whether an item was ever counted after one of ``items``."""
        keys = items * np.int64(len(self.tree.leaf_of)) + target
        at = np.searchsorted(self._pairs, keys)
        return bool((np.append(self._pairs, -1)[at] == keys).any())

    def _chunk(self, sources: np.ndarray) -> np.ndarray:
        chances, row_of = self._any_item, np.zeros(len(sources), np.int64)
        extent_before = np.array([self.tree.leaves])
        for depth in self.depths:
            begin, end = self.tree.extent(sources, depth)
            groups, first, back = np.unique(begin, return_index=True, return_inverse=True)
            sizes, came_from = (end - begin)[first], row_of[first]
            inherited = [level[came_from] for level in chances]
            smoothed = self._smoothed(self._counted(groups, groups + sizes), inherited)
            same = sizes == extent_before[came_from]  # nothing new is known of a group that did not shrink
            chances = [np.where(same[:, None], old, new) for old, new in zip(inherited, smoothed, strict=True)]
            extent_before, row_of = sizes, back
        return self.tree.product(chances)[row_of]

    def _counted(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Float32 (n, leaves): events after any SID of each stretch of leaves."""
        low, high = self.first[begin], self.first[end]
        row = np.repeat(np.arange(len(begin)), high - low)
        at = np.arange(len(row)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[row]
        flat = np.bincount(
            row * self.tree.leaves + self.target[at], self.weight[at], minlength=len(begin) * self.tree.leaves
        )
        return flat.reshape(len(begin), -1).astype(np.float32)

    def _smoothed(self, counted: np.ndarray, before: list[np.ndarray]) -> list[np.ndarray]:
        """Chances of every node after its parent, by level: counts by leaf, smoothed with those of a wider context."""
        total, found = counted.sum(1, keepdims=True), []
        for starts, parent, wider in zip(self.tree.starts, self.tree.parents, before, strict=True):
            here = np.add.reduceat(counted, starts, axis=1)
            found.append((here + self.smoothing * wider) / (total[:, parent] + self.smoothing))
            total = here
        return found


def _pairs(histories: Histories, config: ProxyConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items, items that came soon after, and weights."""
    rows, items = histories.rows, histories.items
    directed = config.directed
    if directed is None:
        neighbouring = rows[1:] == rows[:-1]
        tied = neighbouring & (histories.times[1:] == histories.times[:-1])
        directed = not (histories.timed and tied.sum() > BASKET_SHARE * neighbouring.sum())
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for distance in range(1, config.window + 1):
        near = (rows[distance:] == rows[:-distance]) & (items[distance:] != items[:-distance])
        a, b = items[:-distance][near], items[distance:][near]
        weight = np.full(len(a), 1 / distance)
        found += [(a, b, weight)] if directed else [(a, b, weight / 2), (b, a, weight / 2)]
    source, target, weight = (np.concatenate(part) for part in zip(*found, strict=True))
    return source, target, weight


def _sample(cases: Cases, tree: Tree, config: ProxyConfig) -> np.ndarray:
    asked = min(config.cases, len(cases))
    distinct = tree.leaves * tree.leaves <= _CELLS_ASKED  # then every SID's row is computed once
    if not distinct:
        asked = min(asked, max(_CELLS_ASKED // tree.leaves // config.last, 50))
    return np.sort(np.random.default_rng(config.seed).permutation(len(cases))[:asked])


def _rank(target: int, scores: np.ndarray, seen: np.ndarray, tree: Tree, order: np.ndarray) -> int:
    """1-based rank of an item, with ``scores`` by leaf; the items ``seen`` take no place."""
    own = scores[tree.leaf_of[target]]
    before = int(tree.owners[scores > own].sum())
    level = tree.items_of(np.flatnonzero(scores == own))
    before += int((order[level] < order[target]).sum())
    others = seen[seen != target]
    theirs = scores[tree.leaf_of[others]]
    before -= int(((theirs > own) | ((theirs == own) & (order[others] < order[target]))).sum())
    return before + 1 if len(others) == len(seen) else len(order) + 1
