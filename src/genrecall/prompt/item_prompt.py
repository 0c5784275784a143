"""Prompts of models that read items: one token an event, with start and profile before them, a search after them.

``start, value of each profile column, item …, <search>, word …``; the newest events are shown. Tokens are numbered as
``model.trunk`` says: items, then the same items where they open a new session, then the rows of the prefix and of the
search's words.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from genrecall.prompt.layout import Layout
from genrecall.prompt.query_words import QueryWords
from genrecall.sid.space import SidSpace

FILE = "item_prompt.json"
_VALUES = 255
_NO_PROFILE: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class ItemPrompt:
    """Writes prompts; equal in training and serving.

    Attributes:
        num_items: I.
        codes: of the SID space that the answer is written in.
        window: the newest so many events are shown.
        sessions: whether an event whose time differs from the one before it has a token of its own.
        columns: the known values of each profile column, in the order of their rows.
        queries: the words of search texts; None for models that answer histories only, which do not read them.
        dropped: 0: nothing that ``window`` allows is ever left out.
    """

    num_items: int
    codes: tuple[int, ...]
    window: int
    sessions: bool = False
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    queries: QueryWords | None = None
    dropped: int = 0

    @classmethod
    def learn(
        cls,
        num_items: int,
        space: SidSpace,
        profiles: Iterable[Mapping[str, str]],
        *,
        window: int,
        sessions: bool,
        queries: QueryWords | None = None,
    ) -> ItemPrompt:
        """Take the columns and their most frequent values from the training users' profiles."""
        counted: dict[str, Counter[str]] = {}
        for profile in profiles:
            for name, value in profile.items():
                counted.setdefault(name, Counter())[value] += 1
        return cls(
            num_items=num_items,
            codes=space.codes,
            window=window,
            sessions=sessions,
            columns={name: tuple(sorted(_frequent(values))) for name, values in sorted(counted.items())},
            queries=queries,
        )

    @property
    def prefix_rows(self) -> int:
        """Start, for each column its values and one for all others, and what searches are written in."""
        return self._head_rows + (0 if self.queries is None else self.queries.rows)

    @property
    def first_query_row(self) -> int:
        """The prompt token of a search; its words and their pieces follow."""
        return self.num_items * (1 + self.sessions) + self._head_rows

    @property
    def _head_rows(self) -> int:
        return 1 + sum(1 + len(values) for values in self.columns.values())

    @property
    def sid_tokens(self) -> list[np.ndarray]:
        """For each level the int64 (C,) numbers of its codes in the depth decoder's vocabulary."""
        space = SidSpace(self.codes)
        return [space.offset(level) + np.arange(size) for level, size in enumerate(self.codes)]

    def head(self, profile: Mapping[str, str] = _NO_PROFILE) -> list[int]:
        """Start and one token a column; values that training did not know are alike."""
        row = self.num_items * (1 + self.sessions)
        tokens, row = [row], row + 1
        for name, values in self.columns.items():
            value = profile.get(name)
            tokens.append(row + 1 + values.index(value) if value in values else row)
            row += 1 + len(values)
        return tokens

    def encode(
        self,
        history: np.ndarray,
        profile: Mapping[str, str] = _NO_PROFILE,
        times: np.ndarray | None = None,
        query: str | None = None,
    ) -> list[int]:
        """The whole prompt of a history int (n,), oldest first; ``times`` int64 (n,) tell sessions apart.

        A search text stands last, so that the events before it can be another user's or none at all.
        """
        asked = self.search(query) if query else []
        places = self.window - len(asked)
        shown = np.asarray(history[len(history) - min(places, len(history)) :], dtype=np.int64)
        if self.sessions and times is not None and len(shown):
            moments = np.asarray(times)[-len(shown) :]
            # What came before the first shown event is as unknown here as in the windows of training.
            shown = shown + self.num_items * np.concatenate([[False], moments[1:] != moments[:-1]])
        return [*self.head(profile), *shown.tolist(), *asked]

    def search(self, text: str) -> list[int]:
        """The search token and the text's words, as many as the window holds; empty where none can be written."""
        if self.queries is None:
            return []
        return [self.first_query_row + row for row in self.queries.encode(text)[: self.window]]

    def layout(self) -> Layout:
        """What it takes to write the same prompts elsewhere."""
        return Layout(
            head=tuple(self.head()),
            pieces=np.arange(self.num_items, dtype=np.int32)[:, None],
            max_items=self.window,
            sessions=self.sessions,
            session_offset=self.num_items if self.sessions else 0,
        )

    def save(self, directory: Path) -> None:
        """Write ``item_prompt.json``."""
        (directory / FILE).write_text(json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path, num_items: int) -> ItemPrompt:
        """Read what ``save`` wrote, for a catalog of ``num_items`` (items may have been appended since)."""
        facts = json.loads((directory / FILE).read_text(encoding="utf-8"))
        columns = {name: tuple(values) for name, values in facts.pop("columns").items()}
        told = facts.pop("queries", None)
        queries = None if told is None else QueryWords(words=tuple(told["words"]), pieces=told["pieces"])
        known = {"num_items": num_items, "codes": tuple(facts["codes"]), "columns": columns, "queries": queries}
        return cls(**{**facts, **known})


def _frequent(values: Counter[str]) -> list[str]:
    return [value for value, _ in values.most_common(_VALUES)]
