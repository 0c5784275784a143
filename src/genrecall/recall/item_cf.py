"""Item-based collaborative filtering: items that the same people had.

    cosine(i, j) = |U_i ∩ U_j| / (|U_i|^(1−β) |U_j|^β + λ),                   β = ½, λ = 0: the plain cosine
    swing(i, j)  = Σ_{u < v ∈ U_i ∩ U_j}  w_u w_v / (α + |I_u ∩ I_v|),    w_u = 1 / √|I_u|

Sarwar et al., "Item-based collaborative filtering" (WWW 2001); Yang et al., "Large scale product graph construction"
(2020) for Swing. Deviations: a user counts with the ``user_items`` newest distinct items, and Swing, which is quadratic
in an item's users, takes at most ``item_users`` of them, spread evenly over the user numbers. Rows are made in blocks
and cut to their strongest neighbours at once: memory is O(I · neighbours) plus one block.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.neighbours import NeighbourChannel, check_history, keep_strongest
from genrecall.recall.selection import scipy_sparse
from genrecall.telemetry import progress

_PAIRS_A_BLOCK = 20_000_000


@dataclass(frozen=True, kw_only=True)
class ItemCfConfig:
    """Settings of :class:`ItemCfChannel`.

    Attributes:
        similarity: ``cosine`` or ``swing``.
        neighbours: most similar items kept an item; None keeps all. Cutting to 200 cost a tenth of Recall@10 on baskets
            of thousands of items (Online Retail) and nothing on short sequences (Amazon Beauty); eight bytes a pair.
        last: newest history items that are read; None reads all.
        decay: weight of a history item one step older.
        popularity_power: β; more than ½ holds popular items to recommend (j) back further than the plain cosine.
        shrinkage: λ; larger values trust small counts less.
        user_items: newest distinct items of a user that are counted (bounds the work on very long histories).
        alpha: Swing's smoothing; larger values trust small user pairs less.
        item_users: Swing's cap on the users of an item.
    """

    similarity: Literal["cosine", "swing"] = "cosine"
    neighbours: int | None = 1000
    last: int | None = 50
    decay: float = 0.7
    popularity_power: float = 0.6
    shrinkage: float = 10.0
    user_items: int = 1000
    alpha: float = 1.0
    item_users: int = 200
    session_weight: ClassVar[float] = 1.0  # the whole history counts alike

    def __post_init__(self) -> None:
        check_history(self.last, self.decay, self.neighbours)
        powers_ok = 0 <= self.popularity_power <= 1
        sizes_ok = self.user_items >= 2 and self.item_users >= 2 and self.alpha >= 0 and self.shrinkage >= 0
        if self.similarity not in ("cosine", "swing") or not sizes_ok or not powers_ok:
            raise ConfigError(
                "item similarities cannot be computed like this",
                seen=f"similarity={self.similarity!r}, user_items={self.user_items}, "
                f"item_users={self.item_users}, alpha={self.alpha}, shrinkage={self.shrinkage}, "
                f"popularity_power={self.popularity_power}",
                allowed="similarity 'cosine' or 'swing', user_items >= 2, item_users >= 2, alpha >= 0, shrinkage >= 0, "
                "0 <= popularity_power <= 1",
                fix="choose a similarity (--item-cf) and sizes of these",
            )


class ItemCfChannel(NeighbourChannel[ItemCfConfig]):
    """Items similar to those of the history."""

    name = "item_cf"

    counted_by = ("user_items",)

    @classmethod
    def suited_to(cls, histories: Histories) -> ItemCfConfig:
        """The defaults: they were chosen on sequences and baskets alike."""
        return ItemCfConfig()

    @classmethod
    def count(cls, histories: Histories, num_items: int, config: ItemCfConfig) -> Any:
        """Who had what, (U, I). Not yet who shared what: that is only ever made in blocks."""
        return user_item_matrix(histories, num_items, config.user_items)

    @classmethod
    def weigh(cls, counted: Any, counts: np.ndarray, config: ItemCfConfig) -> Any:
        """Similarities, CSR (I, I) without diagonal."""
        return _cosine(counted, config) if config.similarity == "cosine" else _swing(counted, config)


def user_item_matrix(histories: Histories, num_items: int, user_items: int) -> Any:
    """Who had what: SciPy CSR float32 (U, I) of ones, at most the ``user_items`` newest distinct items a user."""
    num_users = len(histories.offsets) - 1
    users = np.repeat(np.arange(num_users), np.diff(histories.offsets))
    keys = users.astype(np.int64) * num_items + histories.items
    # Newest event of each (user, item): the first one met when reading backwards.
    newest = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
    newest.sort()
    users = users[newest]
    ends = np.cumsum(np.bincount(users, minlength=num_users))
    kept = newest[ends[users] - np.arange(len(newest)) <= user_items]
    users = np.repeat(np.arange(num_users), np.diff(histories.offsets))[kept]
    ones = np.ones(len(kept), dtype=np.float32)
    return scipy_sparse().csr_matrix((ones, (users, histories.items[kept])), shape=(num_users, num_items))


def _cosine(owned: Any, config: ItemCfConfig) -> Any:
    """Cosine similarities, CSR (I, I) without diagonal."""
    sparse = scipy_sparse()
    sizes = np.asarray(owned.sum(0)).ravel()
    sources, targets = sizes ** (1 - config.popularity_power), sizes**config.popularity_power
    by_item = owned.T.tocsr()
    work = np.cumsum(by_item @ np.diff(owned.indptr))
    cuts = np.searchsorted(work, np.arange(_PAIRS_A_BLOCK, work[-1] if len(work) else 0, _PAIRS_A_BLOCK))
    edges = np.unique(np.concatenate(([0], cuts, [len(sizes)])))
    blocks = []
    with progress("item-CF cosine: items", len(sizes)) as bar:
        for begin, end in itertools.pairwise(edges.tolist()):
            together = (by_item[begin:end] @ owned).tocoo()
            rows, columns = together.row + begin, together.col
            values = together.data / (sources[rows] * targets[columns] + config.shrinkage)
            other = rows != columns
            block = sparse.csr_matrix(
                (values[other], (together.row[other], columns[other])), shape=(end - begin, len(sizes))
            )
            blocks.append(keep_strongest(block, config.neighbours))
            bar.advance(end - begin)
    return sparse.vstack(blocks).tocsr()


def _swing(owned: Any, config: ItemCfConfig) -> Any:
    """Swing similarities, CSR (I, I) without diagonal."""
    sparse = scipy_sparse()
    num_items = owned.shape[1]
    by_item = owned.T.tocsr()
    user_weight = 1.0 / np.sqrt(np.maximum(np.diff(owned.indptr), 1))
    rows = []
    with progress("item-CF swing: items", num_items) as bar:
        for item in range(num_items):
            users = by_item.indices[by_item.indptr[item] : by_item.indptr[item + 1]]
            if len(users) > config.item_users:
                users = users[np.linspace(0, len(users) - 1, config.item_users).astype(np.int64)]
            rows.append(_swing_row(item, owned[users], user_weight[users], config))
            bar.advance()
    return sparse.vstack(rows).tocsr()


def _swing_row(item: int, owned: Any, weight: np.ndarray, config: ItemCfConfig) -> Any:
    """Swing of one item with all others, CSR (1, I); ``owned`` (m, I) are its users' items, ``weight`` (m,)."""
    sparse = scipy_sparse()
    pair = (owned @ owned.T).toarray()
    pair = np.outer(weight, weight) / (config.alpha + pair)
    np.fill_diagonal(pair, 0.0)
    # Σ_{u,v} x_uj P_uv x_vj for every j at once, over the items that these users have; each pair is met twice.
    columns, local = np.unique(owned.indices, return_inverse=True)
    compact = sparse.csr_matrix((owned.data, local, owned.indptr), shape=(owned.shape[0], len(columns)))
    spread = compact.T.tocsr() @ pair
    cells = compact.tocoo()
    values = np.bincount(cells.col, spread[cells.col, cells.row], minlength=len(columns)) / 2
    keep = (columns != item) & (values > 0)
    indices = columns[keep]
    row = sparse.csr_matrix((values[keep], indices, [0, len(indices)]), shape=(1, owned.shape[1]))
    return keep_strongest(row, config.neighbours)
