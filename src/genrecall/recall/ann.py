"""The nearest of many vectors: exact, or by a graph of neighbours.

    list(u) = first k of I \\ exclude, ordered by (−u · v_i, −training count, index)

``exact`` is one matrix product. ``hnsw`` walks a hierarchical graph (Malkov & Yashunin, "Efficient and robust
approximate nearest neighbor search using hierarchical navigable small world graphs", TPAMI 2020) as faiss builds it.
Deviation: where more than a share of the catalog is excluded the graph would wade through what must not come, so that
such queries are answered exactly, over what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np

from genrecall.errors import ConfigError, DependencyError
from genrecall.recall.selection import Popularity, top_columns

Kind = Literal["auto", "exact", "hnsw"]
_EXACT_UP_TO = 50_000
_MOSTLY_EXCLUDED = 0.5


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Settings of :class:`VectorIndex`.

    Attributes:
        kind: ``exact``, ``hnsw`` (needs faiss), or ``auto``: exact for up to 50,000 items, where it is fast enough.
        links: M of the graph.
        build_width: candidates that are looked at while a vector is linked in.
        search_width: candidates that are looked at in a search; never fewer than the items asked for.
    """

    kind: Kind = "auto"
    links: int = 32
    build_width: int = 80
    search_width: int = 200

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "exact", "hnsw") or min(self.links, self.build_width, self.search_width) < 2:
            raise ConfigError(
                "there is no such index",
                seen=f"kind={self.kind}, links={self.links}, build_width={self.build_width}, "
                f"search_width={self.search_width}",
                allowed="a kind of auto, exact, hnsw, and widths of 2 or more",
                fix="choose a kind (--index) and widths of these",
            )

    def resolved(self, num_items: int) -> Kind:
        """The kind without ``auto``."""
        if self.kind != "auto":
            return self.kind
        return "exact" if num_items <= _EXACT_UP_TO else "hnsw"


class VectorIndex:
    """Finds the items whose vectors have the largest products with a query's.

    Args:
        vectors: float32 (I, E).
        popularity: of the I items; breaks ties.
        config: settings.
        graph: uint8, as ``state`` gave it; None builds it, where there is one.
    """

    def __init__(
        self, vectors: np.ndarray, popularity: Popularity, config: IndexConfig, graph: np.ndarray | None = None
    ) -> None:
        self.config, self.kind = config, config.resolved(len(vectors))
        self._popularity = popularity
        # By popularity, so that of equal products the first is the more popular.
        self._vectors = np.ascontiguousarray(vectors[popularity.order], dtype=np.float32)
        self._faiss = faiss() if self.kind == "hnsw" else None
        self._graph: Any = None
        if self._faiss is not None:
            self._graph = self._faiss.deserialize_index(graph) if graph is not None else self._built(self._faiss)

    def state(self) -> np.ndarray:
        """uint8: the graph as faiss writes it; empty where there is none. The vectors are not in it twice."""
        if self._faiss is None:
            return np.empty(0, np.uint8)
        return np.asarray(self._faiss.serialize_index(self._graph), dtype=np.uint8)

    def search(self, asked: np.ndarray, exclude: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best ``k`` items of R queries.

        Args:
            asked: float32 (R, E).
            exclude: int (n,) items that must not come, of each query; items outside the catalog are ignored.
            k: at most I.

        Returns:
            int32 (R, k) items, −1 where there are no more, and float32 (R, k) products, −inf likewise.
        """
        items = np.full((len(asked), k), -1, np.int32)
        scores = np.full((len(asked), k), -np.inf, np.float32)
        for row, told in enumerate(exclude):
            excluded = self._places(told)
            by_graph = self._graph is not None and len(excluded) <= _MOSTLY_EXCLUDED * len(self._popularity)
            found, products = (self._walk if by_graph else self._compared)(asked[row], excluded, k)
            items[row, : len(found)] = self._popularity.order[found]
            scores[row, : len(found)] = products
        return items, scores

    def take(self, items: np.ndarray) -> np.ndarray:
        """float32 (n, E) vectors of items int (n,)."""
        return np.asarray(self._vectors[self._popularity.place[items]])

    def _compared(self, asked: np.ndarray, excluded: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Places int64 and products of one query, best first, of all vectors.

        One query at a time: rows of a larger product would be summed in an order that depends on their neighbours.
        """
        products = self._vectors @ asked
        products[excluded] = -np.inf
        columns, top = top_columns(products[None], k)
        real = ~np.isneginf(top[0])
        return columns[0][real], top[0][real]

    def _walk(self, asked: np.ndarray, excluded: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Places int64 and products of one query, best first, by the graph."""
        assert self._faiss is not None
        more: dict[str, Any] = {"efSearch": max(self.config.search_width, k)}
        if len(excluded):
            batch = self._faiss.IDSelectorBatch(excluded)
            more["sel"] = self._faiss.IDSelectorNot(batch)
        products, found = self._graph.search(asked[None], k, params=self._faiss.SearchParametersHNSW(**more))
        real = found[0] >= 0
        order = np.lexsort((found[0][real], -products[0][real]))
        return found[0][real][order], products[0][real][order]

    def _places(self, exclude: np.ndarray) -> np.ndarray:
        known = exclude[(exclude >= 0) & (exclude < len(self._popularity))]
        return np.unique(self._popularity.place[known]).astype(np.int64)

    def _built(self, library: ModuleType) -> Any:
        graph = library.IndexHNSWFlat(self._vectors.shape[1], self.config.links, library.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = self.config.build_width
        graph.add(self._vectors)
        return graph


def overlap(found: np.ndarray, expected: np.ndarray, k: int) -> float:
    """Recall of approximate lists: the mean share of the exact first ``k`` (R, ≥ k) that stand in ``found``'s."""
    shares = [
        len(np.intersect1d(a[:k], b[:k][b[:k] >= 0])) / max(int((b[:k] >= 0).sum()), 1)
        for a, b in zip(found, expected, strict=True)
    ]
    return float(np.mean(shares)) if shares else 1.0


def faiss() -> ModuleType:
    """The module faiss; a missing one is the user's to mend."""
    try:
        import faiss as library
    except ModuleNotFoundError as error:
        raise DependencyError("faiss-cpu", extra="serve", purpose="an index of neighbours") from error
    return library
