"""Queries to train on, and those that must never be.

    query = a stretch of 2 to 5 words of an item's title (2 to 8 characters where no spaces are put), lower-cased

After the title-derived queries of Nogueira et al., "Document expansion by query prediction" (2019, arXiv 1904.08375),
with a random stretch in place of their model. What is judged by is compared as a bag of words without stop words,
plural endings and order, so that "Lips > Lipsticks" is the evaluation query "lipstick lips", too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import numpy as np

from genrecall.catalog.store import Catalog
from genrecall.text.cleaning import clean

_DENSE = "㐀-鿿豈-﫿぀-ヿ"
_WORDS = re.compile(rf"[{_DENSE}]|[^\W_{_DENSE}]+")
_STOPS = frozenset(re.findall(r"\w+", "a an and are as at be by for from in is of on or s the to with"))
_MOST_WORDS, _MOST_CHARACTERS, _TRIES = 5, 8, 8


class HeldOut:
    """Queries that a search is judged by.

    Args:
        ids: their ids.
        texts: their texts.
    """

    def __init__(self, ids: Iterable[str] = (), texts: Iterable[str] = ()) -> None:
        self.ids = frozenset(ids)
        self._bags = {_bag(text) for text in texts} - {frozenset()}

    @classmethod
    def of(cls, catalog: Catalog) -> HeldOut:
        """All queries of a catalog's own table: it is there to judge by."""
        if catalog.queries is None:
            return cls()
        return cls(catalog.queries["query_id"].to_pylist(), catalog.queries["query"].to_pylist())

    def __len__(self) -> int:
        return len(self._bags)

    def holds(self, text: str, query_id: str | None = None) -> bool:
        """Whether this text, or the query with this id, must not be trained on."""
        return query_id in self.ids or _bag(text) in self._bags


def derived(title: str, rng: np.random.Generator, held_out: HeldOut) -> str:
    """A query that somebody who wants this item might type; empty where the title gives none that is allowed."""
    words = _words(title)
    if not words:
        return ""
    dense = sum(len(word) == 1 and not word.isascii() for word in words) > len(words) / 2
    for _ in range(_TRIES):
        most = _MOST_CHARACTERS if dense else _MOST_WORDS
        length = min(int(rng.integers(2, most + 1)), len(words))
        start = int(rng.integers(0, len(words) - length + 1))
        query = ("" if dense else " ").join(words[start : start + length])
        if not held_out.holds(query):
            return query
    return ""


def _words(text: str) -> list[str]:
    return _WORDS.findall(unicodedata.normalize("NFKC", clean(text)).casefold())


def _bag(text: str) -> frozenset[str]:
    words = (word.removesuffix("s") if len(word) > 3 else word for word in _words(text) if word not in _STOPS)
    return frozenset(words)
