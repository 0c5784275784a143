"""The texts that a model is aligned with: of items by column, and queries with the items they led to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from genrecall.artifacts import canonical_json
from genrecall.catalog.histories import Histories
from genrecall.catalog.items import Items
from genrecall.catalog.queries import SearchCases
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.telemetry import log
from genrecall.text.cleaning import clean
from genrecall.train.mixture import ALIGNMENT, Mixture
from genrecall.train.queries import HeldOut

_PATHS = re.compile(r"categor(?:y|ies)(?:_.+)?")  # columns whose texts may be several paths


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Queries that led to items.

    Attributes:
        texts: N search texts.
        items: int64 (N,) item indices.
        query_ids: N ids; empty strings where a query has none.
        users: int64 (N,) who asked; −1 where unknown.
    """

    texts: Sequence[str] = ()
    items: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    query_ids: Sequence[str] = ()
    users: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, cases: SearchCases) -> Pairs:
        """The queries of a file with the items that answer them."""
        queries = np.repeat(np.arange(len(cases)), cases.lengths).tolist()
        return cls(
            texts=[cases.texts[query] for query in queries],
            items=cases.items.astype(np.int64),
            query_ids=[cases.query_ids[query] for query in queries],
            users=np.full(len(queries), -1),
        )

    def allowed(self, held_out: HeldOut) -> Pairs:
        """The pairs whose query is none of those held out, by id and by text."""
        kept = [
            place
            for place, (text, query) in enumerate(zip(self.texts, self.query_ids, strict=True))
            if text.strip() and not held_out.holds(text, query or None)
        ]
        return Pairs(
            texts=[self.texts[place] for place in kept],
            items=self.items[kept],
            query_ids=[self.query_ids[place] for place in kept],
            users=self.users[kept],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Everything that alignment may read; what evaluation asks is not in it.

    Attributes:
        texts: for each column, the texts of each of I items: none, one, or several (paths of categories).
        pairs: given queries.
        held_out: queries that title-derived ones must not repeat.
        left_out: texts and pairs that were held out, by name.
    """

    texts: Mapping[str, list[list[str]]]
    pairs: Pairs = field(default_factory=Pairs)
    held_out: HeldOut = field(default_factory=HeldOut)
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """``sha256:…`` of texts and pairs."""
        parts = [self.texts, list(self.pairs.texts), self.pairs.items.tolist(), self.pairs.users.tolist()]
        return f"sha256:{hashlib.sha256(canonical_json(parts).encode()).hexdigest()}"


def corpus_of(catalog: Catalog, train: Histories, mixture: Mixture, given: Pairs | None = None) -> Corpus:
    """The texts of a catalog's items, the queries of its training events, and given pairs, less what is held out.

    Args:
        catalog: its table ``queries`` is what searches are judged by.
        train: training events, rows numbered as the catalog's users.
        mixture: names the columns.
        given: further queries with items.

    Raises:
        ConfigError: the mixture names a column that the items do not have.
    """
    items, held_out = catalog.items, HeldOut.of(catalog)
    _require_columns(items, mixture)
    warm = train.item_counts(len(items)) > 0 if mixture.warm_only else np.ones(len(items), dtype=bool)
    texts, left_out = {}, {}
    for column in dict.fromkeys(["title", *mixture.columns]):
        if column not in items.text_columns:
            continue
        told = [_alternatives(column, text) for text in items.table[column].to_pylist()]
        texts[column] = [
            [text for text in own if not held_out.holds(text)] if known else []
            for own, known in zip(told, warm.tolist(), strict=True)
        ]
        left_out[column] = sum(len(own) for own, known in zip(told, warm.tolist(), strict=True) if known) - sum(
            map(len, texts[column])
        )
    logged = logged_pairs(catalog, train)
    pairs = [part.allowed(held_out) for part in (logged, given or Pairs())]
    left_out["queries"] = len(logged.texts) + len(given.texts if given else ()) - sum(len(part.texts) for part in pairs)
    for name, count in left_out.items():
        if count:
            log(f"alignment leaves out {count:,} texts of {name}: evaluation asks them")
    joined = Pairs(
        texts=[text for part in pairs for text in part.texts],
        items=np.concatenate([part.items for part in pairs]),
        query_ids=[query for part in pairs for query in part.query_ids],
        users=np.concatenate([part.users for part in pairs]),
    )
    return Corpus(texts=texts, pairs=joined, held_out=held_out, left_out={k: n for k, n in left_out.items() if n})


def logged_pairs(catalog: Catalog, train: Histories) -> Pairs:
    """Queries of the log that led to a training event of the same user."""
    events = catalog.events
    if events.query is None:
        return Pairs()
    wide = len(catalog.items)
    asked = np.flatnonzero((events.query >= 0) & (events.item >= 0))
    keys = events.user[asked].astype(np.int64) * wide + events.item[asked]
    learnt = train.rows.astype(np.int64) * wide + train.items
    here = np.flatnonzero(np.isin(learnt, keys))
    moments = set(zip(learnt[here].tolist(), train.times[here].tolist(), strict=True))
    # The time counts, too: a later event on the same item may be what a test asks for.
    kept = [pair in moments for pair in zip(keys.tolist(), events.time[asked].tolist(), strict=True)]
    asked = asked[np.asarray(kept, dtype=bool)]
    return Pairs(
        texts=[events.query_texts[query] for query in events.query[asked].tolist()],
        items=events.item[asked].astype(np.int64),
        query_ids=[""] * len(asked),
        users=events.user[asked].astype(np.int64),
    )


def _alternatives(column: str, text: str | None) -> list[str]:
    parts = (text or "").split(" | ") if _PATHS.fullmatch(column) else [text or ""]
    return list(dict.fromkeys(filter(None, map(clean, parts))))


def _require_columns(items: Items, mixture: Mixture) -> None:
    """A column of the usual mixture may be missing, one that somebody typed may not."""
    usual = {task.column for task in Mixture(shares=dict(ALIGNMENT)).tasks}
    unknown = [column for column in mixture.columns if column not in items.text_columns and column not in usual]
    if unknown:
        raise ConfigError(
            "the mixture asks for texts that the items do not have",
            seen=", ".join(unknown),
            allowed=", ".join(items.text_columns),
            fix="correct the names of the tasks",
        )
