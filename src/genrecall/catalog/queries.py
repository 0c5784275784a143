"""Search queries with the items that answer them: what a search is judged by, and never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from genrecall.catalog.events import Events
from genrecall.catalog.histories import offsets_of
from genrecall.catalog.items import Items
from genrecall.catalog.report import PROBLEMS, Findings
from genrecall.catalog.sources.parquet import stream
from genrecall.catalog.store import Catalog, read_report
from genrecall.catalog.tables import take_pairs, take_queries
from genrecall.errors import ConfigError, DataError

_WITHOUT_ITEMS, _REPEATED = "queries without any item of the catalog", "repeated query-item pairs"


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchCases:
    """Q queries, each with one relevant item or more.

    Attributes:
        query_ids: Q ids.
        texts: Q search texts.
        offsets: int64 (Q+1,); query ``q`` is answered by ``items[offsets[q]:offsets[q + 1]]``.
        items: int32 relevant item indices, ascending and without repeats in each query.
        part: ``test`` queries are asked once, at the end: the evaluator refuses them unless told so.
        left_out: what could not be used, counted, by name; tables print it.
    """

    query_ids: list[str]
    texts: list[str]
    offsets: np.ndarray
    items: np.ndarray
    part: Literal["validation", "test"] = "test"
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.query_ids) == len(self.texts) == len(self.offsets) - 1
        assert len(self.items) == self.offsets[-1]
        assert not len(self) or self.lengths.min() > 0, "a query without relevant items cannot be judged"

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def lengths(self) -> np.ndarray:
        """int64 (Q,) relevant items a query."""
        return np.diff(self.offsets)

    def relevant(self, query: int) -> np.ndarray:
        """int32 relevant items of one query (a view)."""
        return self.items[self.offsets[query] : self.offsets[query + 1]]

    def subset(self, indices: np.ndarray) -> SearchCases:
        """These queries, in this order."""
        chosen = [self.relevant(query) for query in indices.tolist()]
        return replace(
            self,
            query_ids=[self.query_ids[query] for query in indices.tolist()],
            texts=[self.texts[query] for query in indices.tolist()],
            offsets=offsets_of(np.array([len(items) for items in chosen], np.int64)),
            items=np.concatenate([np.empty(0, np.int32), *chosen]),
        )

    def divide(self, *, valid_share: float = 0.5, seed: int = 0) -> tuple[SearchCases, SearchCases]:
        """Draw validation queries to choose settings by; the others test."""
        order = np.random.default_rng(seed).permutation(len(self))
        count = round(valid_share * len(self))
        if not 0 < count < len(self):
            raise ConfigError(
                "this share leaves no query to validate by, or none to test",
                seen=f"valid_share={valid_share} of {len(self)} queries",
                allowed="a share between 0 and 1 that leaves both parts at least one query",
                fix="use for example 0.5",
            )
        valid, test = np.sort(order[:count]), np.sort(order[count:])
        return replace(self.subset(valid), part="validation"), replace(self.subset(test), part="test")

    def frequencies(self, train_counts: np.ndarray) -> np.ndarray:
        """int64 (Q,) training events (I,) on each query's items: how often it would be asked, where no log says so."""
        return np.add.reduceat(train_counts[self.items], self.offsets[:-1]).astype(np.int64)

    def asked(self, events: Events) -> np.ndarray:
        """int64 (Q,) how often the events hold each query's text."""
        used = np.empty(0, np.int32) if events.query is None else events.query[events.query >= 0]
        by_text = dict(
            zip(events.query_texts, np.bincount(used, minlength=len(events.query_texts)).tolist(), strict=True)
        )
        return np.array([by_text.get(text, 0) for text in self.texts], np.int64)


def search_cases(catalog: Catalog) -> SearchCases:
    """The catalog's own queries; what its import left out is counted in ``left_out``."""
    if catalog.queries is None or catalog.query_items is None:
        raise DataError(
            "this catalog holds no search queries",
            seen=", ".join(
                name
                for name, table in (("queries", catalog.queries), ("query_items", catalog.query_items))
                if table is not None
            )
            or "neither queries nor query_items",
            allowed="a catalog imported with queries (query_id, query) and query_items (query_id, item_id)",
            fix="run `genrecall data import` with --queries and --query-items",
        )
    left_out = {}
    if catalog.path is not None:
        report = read_report(catalog.path)
        left_out = {PROBLEMS[name][0]: report.find(name) for name in ("query_without_text", "unknown_pair")}
    return _joined(catalog.queries, catalog.query_items, catalog.items, left_out)


def read_search_cases(
    queries: Path | str, query_items: Path | str, items: Items, *, leave_out_unknown: bool = False
) -> SearchCases:
    """Read queries from files of their own, which no catalog has seen.

    Args:
        queries: file with ``query_id``, ``query``.
        query_items: file with ``query_id``, ``item_id``.
        items: of the catalog that is searched.
        leave_out_unknown: count rows that cannot be used instead of refusing them.

    Raises:
        DataError: pairs name unknown items or queries, or queries have no text, and ``leave_out_unknown`` is not set.
    """
    findings = Findings()
    table = take_queries(stream(Path(queries)), findings)
    pairs = take_pairs(stream(Path(query_items)), items, table, findings)
    problems = {name: count for name, count in findings.counts.items() if name in PROBLEMS}
    if problems and not leave_out_unknown:
        examples = [example for name in problems for example in findings.examples[name]]
        raise DataError(
            "the queries do not fit this catalog",
            seen="; ".join(f"{count:,} {PROBLEMS[name][0]}" for name, count in problems.items())
            + f"; for example {'; '.join(examples[:3])}",
            allowed="queries with text, and pairs of known queries and items of the catalog",
            fix="mend the files, or have such rows left out, counted and stated: leave_out_unknown=True",
        )
    return _joined(table, pairs, items, {PROBLEMS[name][0]: count for name, count in problems.items()})


def _joined(queries: pa.Table, pairs: pa.Table, items: Items, left_out: Mapping[str, int]) -> SearchCases:
    ids, texts = queries["query_id"].to_pylist(), queries["query"].to_pylist()
    place = {query: number for number, query in enumerate(ids)}
    rows = np.array([place[query] for query in pairs["query_id"].to_pylist()], np.int64)
    columns = np.array([items.index[item] for item in pairs["item_id"].to_pylist()], np.int64)
    keys = np.unique(rows * len(items) + columns)
    lengths = np.bincount(keys // max(len(items), 1), minlength=len(ids))
    answered = np.flatnonzero(lengths > 0)
    if not len(answered):
        raise DataError(
            "no query has a relevant item",
            seen=f"{len(ids):,} queries, {len(rows):,} usable pairs",
            allowed="at least one query with an item of the catalog",
            fix="check that the pairs use the catalog's item ids",
        )
    counted = {**left_out, _WITHOUT_ITEMS: len(ids) - len(answered), _REPEATED: len(rows) - len(keys)}
    return SearchCases(
        query_ids=[ids[query] for query in answered.tolist()],
        texts=[texts[query] for query in answered.tolist()],
        offsets=offsets_of(lengths[answered]),
        items=(keys % len(items)).astype(np.int32),
        left_out={name: count for name, count in counted.items() if count},
    )
