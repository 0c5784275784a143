"""Search texts as tokens: one a known word, several a word that training never met.

    tokens("shampo for oily hair") = <search>, pieces of <shampo>: <sh sha ham amp mpo po>, for, oily, hair

Known words are the most frequent ones of the items' texts, as ``text.words`` finds them. Other words are spelled:
their character trigrams, hashed into a fixed number of rows (after Bojanowski, Grave, Joulin & Mikolov, "Enriching word
vectors with subword information", TACL 2017). We deviate: known words have no trigrams, and trigrams are tokens of
their own instead of a sum; Chinese, Japanese and Korean words, bigrams already, are spelled by character.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from genrecall.text.words import words

MOST_TOKENS = 32
"""A query is cut here: what is typed is shorter, and what is pasted must not push the history out."""


@dataclass(frozen=True, kw_only=True)
class QueryWords:
    """A vocabulary; its rows are the search token, the words, the pieces.

    Attributes:
        words: known words, most frequent first.
        pieces: how many rows unknown words are spelled with; 0 leaves such words out.
    """

    words: tuple[str, ...]
    pieces: int = 0

    @classmethod
    def learn(cls, texts: Iterable[str], *, most: int = 30_000, least: int = 1, pieces: int = 4096) -> QueryWords:
        """Take the words that stand in most of the items' texts, at least ``least``; ties by the alphabet."""
        counted = Counter(word for text in texts for word in set(words(text)))
        ranked = sorted((-count, word) for word, count in counted.items() if count >= least)
        return cls(words=tuple(word for _, word in ranked[:most]), pieces=pieces)

    @property
    def rows(self) -> int:
        """How many different tokens there are."""
        return 1 + len(self.words) + self.pieces

    def encode(self, text: str) -> list[int]:
        """The search token 0 and the text's tokens, counted from 0; empty where nothing of the text can be written."""
        tokens = [token for word in words(text) for token in self.tokens(word)]
        return [0, *tokens[: MOST_TOKENS - 1]] if tokens else []

    def tokens(self, word: str) -> list[int]:
        """Tokens of one word."""
        place = self._place.get(word)
        return [1 + place] if place is not None else self.spelled(word)

    def spelled(self, word: str) -> list[int]:
        """The pieces of a word, known or not."""
        if not self.pieces:
            return []
        marked = f"<{word}>"
        dense = not word.isascii() and len(word) <= 2
        grams = list(word) if dense else [marked[place : place + 3] for place in range(len(marked) - 2)]
        first = 1 + len(self.words)
        return [first + zlib.crc32(gram.encode()) % self.pieces for gram in grams]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}
