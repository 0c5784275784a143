"""From a history and a profile to the tokens after which the model writes a SID.

Every piece (head, event, joiner, tail) is tokenised by itself and the pieces are concatenated, in training as in
serving, so a prompt's tokens do not depend on where a tokenizer would have merged across pieces. Titles and profile
values are words and never special tokens: a title that spells ``<a_1>`` is no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.errors import CapacityError, ConfigError
from genrecall.prompt.history import HistoryConfig, shown
from genrecall.prompt.layout import Layout
from genrecall.prompt.template import Template
from genrecall.prompt.vocabulary import Vocabulary

FILE = "prompt.json"
_NO_PROFILE: Mapping[str, str] = {}
_QUERY_TOKENS = 64
_REMEMBERED_TEXTS = 8192


@dataclass(frozen=True, kw_only=True, eq=False)
class Body:
    """A history as tokens.

    Attributes:
        tokens: int64 (T,).
        sid_begin: int64 (n,) index in ``tokens`` of each event's first code.
        end: int64 (n,) index after each event, its separator included.
    """

    tokens: np.ndarray
    sid_begin: np.ndarray
    end: np.ndarray


class PromptBuilder:
    """Writes prompts; equal in training and serving.

    Args:
        vocabulary: tokens.
        template: the words around the history.
        history: which events are shown.
        sids: int (I, L) SID of each item.
        titles: I titles, where the template shows them.
        max_tokens: the model's window; None lifts the limit. L - 1 tokens of it are kept for the answer.

    Attributes:
        dropped: events left out so far because a prompt was longer than the window (the oldest go first).
        shortened: prompts that lost events this way.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        template: Template,
        history: HistoryConfig,
        sids: np.ndarray,
        *,
        titles: Sequence[str] | None = None,
        max_tokens: int | None = None,
    ) -> None:
        if template.uses_titles and titles is None:
            raise ConfigError(
                f"the template {template.name} shows titles and none were given",
                seen=template.item,
                allowed="titles of all items, or an item pattern without {title}",
                fix="give the catalog's titles, or choose another template",
            )
        assert sids.ndim == 2
        assert sids.shape[1] == vocabulary.space.levels
        self.vocabulary, self.template, self.history = vocabulary, template, history
        self.sids, self.titles, self.max_tokens = sids, titles, max_tokens
        self.dropped = self.shortened = 0
        newest_first = history.order == "newest_first" and template.head_newest_first
        self._head = template.head_newest_first if newest_first else template.head
        # Texts come again: the template's own words with every request, profiles and searches with every user's next.
        self._words = lru_cache(maxsize=_REMEMBERED_TEXTS)(vocabulary.encode)

    @property
    def levels(self) -> int:
        """L."""
        return self.vocabulary.space.levels

    @property
    def causal(self) -> bool:
        """Whether a history is one plain causal row in which every item's SID follows what came before it."""
        return self.template.causal and self.history.grows

    def encode(
        self,
        history: np.ndarray,
        profile: Mapping[str, str] = _NO_PROFILE,
        times: np.ndarray | None = None,
        query: str | None = None,
    ) -> list[int]:
        """The whole prompt.

        Args:
            history: int (n,) item indices, oldest first.
            profile: profile columns by name.
            times: int64 (n,), needed only where sessions are separated.
            query: what the user searches for; an empty one asks for the next item.

        Raises:
            ConfigError: a query, and the template has no words for it.
            CapacityError: the words around the history alone do not fit into the model's window.
        """
        history = np.asarray(history, dtype=np.int64)
        kept = shown(history, self.history)
        body = self.body(history[kept], None if times is None else np.asarray(times)[kept])
        head, tail = self.head(profile), self.tail(empty=len(kept) == 0)
        if query and not query.isspace():
            alone = len(kept) == 0
            head = self.head(profile, bare=alone)
            tail = self.search(query, alone=alone, most=self.room(head, self.search("", alone=alone)))
        room = self.room(head, tail)
        if len(body.tokens) > room:
            body = self._shorten(history[kept], None if times is None else np.asarray(times)[kept], room)
        return [*head, *body.tokens.tolist(), *tail]

    def head(self, profile: Mapping[str, str] = _NO_PROFILE, *, bare: bool = False) -> list[int]:
        """Tokens before the history; never empty, so that a user without events can be answered.

        ``bare`` leaves out the words that announce a history.
        """
        words = {name: self.vocabulary.literal(value) for name, value in profile.items()}
        text = self.template.profile.render(words) + ("" if bare else self._head)
        opening = [self.vocabulary.bos] if self.vocabulary.bos is not None else []
        return [*opening, *self._words(text)] or [self.vocabulary.start]

    def tail(self, *, empty: bool = False) -> list[int]:
        """Tokens after the history."""
        return self._empty_tail if empty else self._tail

    def search(self, query: str, *, alone: bool = False, most: int = _QUERY_TOKENS) -> list[int]:
        """Tokens of a search, after the history or ``alone``; of a long query the end is left out."""
        if not self.template.search:
            raise ConfigError(
                f"the template {self.template.name} cannot search",
                seen=query,
                allowed="a template with a search pattern, such as compact, zh or en",
                fix="add for example search = 'The user searches for: {query}.' to the template, and train with it",
            )
        before, after = self.template.search.split("{query}")
        gap = before[len(before.rstrip(" ")) :]
        words = self._words(gap + self.vocabulary.literal(query))[: min(most, _QUERY_TOKENS)]
        opening = ("" if alone else self.template.search_joiner) + before.rstrip(" ")
        return [*self._words(opening), *words, *self._words(after)]

    def room(self, head: list[int], tail: list[int]) -> int:
        """How many tokens of history fit between head and tail."""
        if self.max_tokens is None:
            return 2**31
        room = self.max_tokens - len(head) - len(tail) - (self.levels - 1)
        if room < 0:
            raise CapacityError(
                "the prompt without any history is longer than the model's window",
                seen=f"{len(head)} + {len(tail)} tokens and {self.levels - 1} for the answer",
                allowed=f"{self.max_tokens} tokens",
                fix="shorten the template or the profile, or use a model with a longer window",
            )
        return room

    def body(self, items: np.ndarray, times: np.ndarray | None = None) -> Body:
        """Tokens of the events that are shown (oldest first in; in the order of the settings out)."""
        n = len(items)
        if n == 0:
            return Body(tokens=_ints([]), sid_begin=_ints([]), end=_ints([]))
        opens = np.zeros(n, dtype=bool)
        if self.history.session_gap and times is not None:
            opens[1:] = np.diff(times) != 0
        if self.history.order == "newest_first":
            items, opens = items[::-1], opens[::-1]
        joiner = np.tile(self._joiner, (n, 1))
        joiner[0] = -1
        separator = np.where(opens, self.vocabulary.separator, -1)[:, None]
        grid = np.concatenate([joiner, self._pieces[items], separator], axis=1)
        written = grid >= 0
        before = np.cumsum(written.reshape(-1)).reshape(written.shape)
        sid_column = joiner.shape[1] + self._sid_offset[items]
        sid_begin = before[np.arange(n), sid_column] - 1
        return Body(tokens=grid[written], sid_begin=sid_begin, end=before[:, -1])

    @cached_property
    def longest_event(self) -> int:
        """The most tokens that one event takes, joiner and separator included."""
        piece = int((self._pieces >= 0).sum(axis=1).max(initial=self.levels))
        return len(self._joiner) + piece + int(self.history.session_gap)

    def layout(self) -> Layout:
        """What it takes to write the same prompts elsewhere."""
        sessions = self.history.session_gap
        return Layout(
            head=tuple(self.head()),
            pieces=self._pieces.astype(np.int32),
            joiner=tuple(self._joiner.tolist()),
            tail=tuple(self.tail()),
            empty_tail=tuple(self.tail(empty=True)),
            max_items=self.history.max_items,
            deduplicate=self.history.deduplicate,
            newest_first=self.history.order == "newest_first",
            sessions=sessions,
            separator=self.vocabulary.separator if sessions else -1,
            max_tokens=0 if self.max_tokens is None else self.max_tokens - (self.levels - 1),
        )

    def settings(self) -> dict[str, Any]:
        """Template, history settings, SID layout and window, JSON-able."""
        return {
            "template": self.template.to_dict(),
            "history": asdict(self.history),
            "space": list(self.vocabulary.space.codes),
            "max_tokens": self.max_tokens,
        }

    def save(self, directory: Path | str, **facts: object) -> None:
        """Write ``prompt.json`` (the settings, and ``facts`` beside them); the vocabulary saves itself."""
        text = json.dumps({**self.settings(), **facts}, ensure_ascii=False, indent=2) + "\n"
        (Path(directory) / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, directory: Path | str, sids: np.ndarray, titles: Sequence[str] | None = None) -> PromptBuilder:
        """Read vocabulary and ``prompt.json`` of a model directory."""
        raw = read_settings(directory)
        return cls(
            Vocabulary.load(directory),
            Template.from_dict(raw["template"]),
            HistoryConfig(**raw["history"]),
            sids,
            titles=titles,
            max_tokens=raw["max_tokens"],
        )

    def _shorten(self, items: np.ndarray, times: np.ndarray | None, room: int) -> Body:
        """The latest events that fit."""
        low, high = 0, len(items)
        while low < high:  # the most events whose tokens fit
            middle = (low + high + 1) // 2
            fits = (
                len(self.body(items[len(items) - middle :], None if times is None else times[-middle:]).tokens) <= room
            )
            low, high = (middle, high) if fits else (low, middle - 1)
        self.dropped += len(items) - low
        self.shortened += 1
        first = len(items) - low
        return self.body(items[first:], None if times is None else times[first:])

    @cached_property
    def _tail(self) -> list[int]:
        return self.vocabulary.encode(self.template.tail)

    @cached_property
    def _empty_tail(self) -> list[int]:
        return self.vocabulary.encode(self.template.empty) + self._tail

    @cached_property
    def _joiner(self) -> np.ndarray:
        return _ints(self.vocabulary.encode(self.template.joiner))

    @property
    def _pieces(self) -> np.ndarray:
        """int64 (I, P): tokens of each item's event, -1 after its end; made once for all items, at the first prompt."""
        return self._written_items[0]

    @property
    def _sid_offset(self) -> np.ndarray:
        """int64 (I,): where in its piece an item's first code stands."""
        return self._written_items[1]

    @cached_property
    def _written_items(self) -> tuple[np.ndarray, np.ndarray]:
        tokens = self.sids.astype(np.int64) + self.vocabulary.level_starts
        patterns = self.template.item.split("{sid}")
        if not self.template.uses_titles:
            before, after = map(self.vocabulary.encode, patterns)
            around = [np.tile(_ints(piece), (len(tokens), 1)) for piece in (before, after)]
            return np.concatenate([around[0], tokens, around[1]], 1), np.full(len(tokens), len(before))
        assert self.titles is not None
        words = [self.vocabulary.literal(title) for title in self.titles]
        befores, afters = (
            self.vocabulary.encode_many([pattern.replace("{title}", title) for title in words]) for pattern in patterns
        )
        pieces = [[*before, *sid, *after] for before, sid, after in zip(befores, tokens.tolist(), afters, strict=True)]
        offsets = [len(before) for before in befores]
        grid = np.full((len(pieces), max(map(len, pieces), default=0)), -1, dtype=np.int64)
        for row, piece in enumerate(pieces):
            grid[row, : len(piece)] = piece
        return grid, _ints(offsets)


def read_settings(directory: Path | str) -> dict[str, Any]:
    """What ``prompt.json`` of a model directory says, ``facts`` included."""
    return json.loads((Path(directory) / FILE).read_text(encoding="utf-8"))


def _ints(values: Sequence[int]) -> np.ndarray:
    return np.asarray(values, dtype=np.int64)
