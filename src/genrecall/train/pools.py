"""What each training task can ask: one pool of questions a task, whose rows are written when they are drawn."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.tasks import TaskPrompts
from genrecall.train.corpus import Corpus
from genrecall.train.data import Profiles
from genrecall.train.mixture import SEARCH, Mixture, Task
from genrecall.train.queries import derived
from genrecall.train.rows import Row, sid_row, text_row


class Pool(Protocol):
    """The questions of one task."""

    name: str

    @property
    def sizes(self) -> np.ndarray:
        """int64 (N,) tokens of each question's row, about."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def row(self, entry: int, rng: np.random.Generator) -> Row:
        """The row of one question; ``rng`` chooses where there are several ways to ask."""
        ...


def pool_of(
    task: Task,
    prompts: PromptBuilder,
    histories: Histories,
    profile_of: Profiles | None,
    corpus: Corpus,
    mixture: Mixture,
) -> Pool:
    """The pool of a task; empty where there is nothing to ask."""
    if task.name == SEARCH:
        return SearchPool(prompts, histories, profile_of, corpus)
    if not task.column:
        return QueryPool(prompts, corpus)
    most = mixture.most_tokens if prompts.max_tokens is None else min(mixture.most_tokens, prompts.max_tokens // 2)
    words = TaskPrompts(prompts.vocabulary, prompts.template.tasks, most_tokens=most)
    return TextPool(task, prompts, words, corpus)


class TextPool:
    """Which item has this text, or which text has this item; one question an item that has any.

    Args:
        task: names column and direction.
        prompts: for the items' SIDs.
        words: writes questions and answers.
        corpus: the texts.
    """

    def __init__(self, task: Task, prompts: PromptBuilder, words: TaskPrompts, corpus: Corpus) -> None:
        self.name, self._task, self._words = task.name, task, words
        self._sids = prompts.sids.astype(np.int64) + prompts.vocabulary.level_starts
        texts = corpus.texts.get(task.column, [])
        self._items = np.asarray([item for item, own in enumerate(texts) if own], dtype=np.int64)
        self._told = [
            [words.words(task.column, text, answer=task.to_text) for text in texts[item]]
            for item in self._items.tolist()
        ]
        around = len(self._asked(0, 0)) - (0 if task.to_text else len(self._told[0][0])) if self._told else 0
        longest = np.asarray([max(map(len, told)) for told in self._told], dtype=np.int64)
        self.sizes = around + longest + (0 if task.to_text else self._sids.shape[1] - 1)

    def __len__(self) -> int:
        return len(self._items)

    def row(self, entry: int, rng: np.random.Generator) -> Row:
        """The row of one item, about one of its texts."""
        item = int(self._items[entry])
        which = int(rng.integers(len(self._told[entry])))
        question = self._asked(entry, which)
        if self._task.to_text:
            return text_row(question, self._told[entry][which], self._sids.shape[1])
        return sid_row(question, self._sids[item], item)

    def _asked(self, entry: int, which: int) -> np.ndarray:
        if self._task.to_text:
            return self._words.telling(self._task.column, self._sids[self._items[entry]])
        return self._words.question(self._task.column, self._told[entry][which])


class QueryPool:
    """A search without history: queries made of each title, and given ones.

    Args:
        prompts: the search prompt that serves.
        corpus: titles, given queries, and queries that must not be asked.
    """

    name = "query_to_sid"

    def __init__(self, prompts: PromptBuilder, corpus: Corpus) -> None:
        self._prompts, self._corpus = prompts, corpus
        titles = corpus.texts.get("title", [])
        self._titled = np.asarray([item for item, own in enumerate(titles) if own], dtype=np.int64)
        self._items = np.concatenate([self._titled, corpus.pairs.items])
        self._sids = prompts.sids.astype(np.int64) + prompts.vocabulary.level_starts
        queries = [titles[item][0] for item in self._titled.tolist()] + list(corpus.pairs.texts)
        around = len(prompts.head(bare=True)) + self._sids.shape[1] - 1
        self.sizes = np.asarray([around + len(prompts.search(query, alone=True)) for query in queries], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._items)

    def row(self, entry: int, rng: np.random.Generator) -> Row:
        """The row of one item."""
        item = int(self._items[entry])
        if entry >= len(self._titled):
            query = self._corpus.pairs.texts[entry - len(self._titled)]
        else:
            query = query_of(self._corpus, item, rng)
        return sid_row(_ints(self._prompts.encode(_ints([]), query=query)), self._sids[item], item)


class SearchPool:
    """A search after a history: each training event, asked for by the query that led to it or by one of its title.

    Args:
        prompts: the search prompt that serves.
        histories: training events.
        profile_of: profile columns of a user.
        corpus: titles, given queries, and queries that must not be asked.
    """

    name = SEARCH

    def __init__(
        self, prompts: PromptBuilder, histories: Histories, profile_of: Profiles | None, corpus: Corpus
    ) -> None:
        self._prompts, self._histories, self._corpus = prompts, histories, corpus
        self._profile_of = profile_of or (lambda user: {})
        self._sids = prompts.sids.astype(np.int64) + prompts.vocabulary.level_starts
        self._asked: dict[tuple[int, int], list[str]] = {}
        for user, item, text in zip(
            corpus.pairs.users.tolist(), corpus.pairs.items.tolist(), corpus.pairs.texts, strict=True
        ):
            if user >= 0:
                self._asked.setdefault((user, item), []).append(text)
        titled = np.asarray([bool(own) for own in corpus.texts.get("title", [[]] * len(prompts.sids))], dtype=bool)
        users, items = histories.rows, histories.items
        logged = np.asarray([pair in self._asked for pair in zip(users.tolist(), items.tolist(), strict=True)], bool)
        self._events = np.flatnonzero(titled[items] | logged)
        self._users = users
        place = self._events - histories.offsets[users[self._events]]
        shown = np.minimum(place, prompts.history.max_items)
        around = len(prompts.head()) + len(prompts.search("a b c d")) + prompts.levels - 1
        self.sizes = around + shown * prompts.longest_event

    def __len__(self) -> int:
        return len(self._events)

    def row(self, entry: int, rng: np.random.Generator) -> Row:
        """The row of one event."""
        event = int(self._events[entry])
        user, item = int(self._users[event]), int(self._histories.items[event])
        before = slice(int(self._histories.offsets[user]), event)
        asked = self._asked.get((user, item))
        query = asked[int(rng.integers(len(asked)))] if asked else query_of(self._corpus, item, rng)
        times = self._histories.times[before] if self._histories.timed else None
        question = self._prompts.encode(self._histories.items[before], self._profile_of(user), times, query)
        return sid_row(_ints(question), self._sids[item], item)


def query_of(corpus: Corpus, item: int, rng: np.random.Generator) -> str:
    """A query for an item out of its title; the whole title where no stretch of it is allowed."""
    title = corpus.texts["title"][item][0]
    return derived(title, rng, corpus.held_out) or title


def _ints(values: object) -> np.ndarray:
    return np.asarray(values, dtype=np.int64)
