"""Searches to learn from, as rows of prompt tokens: ``item …, <search>, word …, item``; only the last one is a target.

    words of a query ~ a stretch, or any subset in order, of the words of an item's title;    query ≠ any held-out query

Queries out of documents after Nogueira et al., "Document expansion by query prediction" (2019, arXiv 1904.08375), with
chance in place of their model, as in ``queries.derived``. We deviate: a short query fits many items, so that a teacher
says which (``soft``), and one query in ``spelled`` writes a word as an unknown one would be, which teaches the pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError, DataError
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.text.cleaning import clean
from genrecall.text.words import words
from genrecall.train.corpus import Pairs
from genrecall.train.queries import HeldOut
from genrecall.train.sequence.soft import SoftTargets
from genrecall.train.turns import TurnRows

_TRIES = 4


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How searches are made up and mixed in.

    Attributes:
        share: of all targets of an epoch that are searches; 0 trains none.
        queries: made up in all, at most; an epoch takes its share of them in turn.
        per_item: made up for one item, at most.
        longest: words of a made-up query, at most.
        subset: share of the queries that are scattered words; the others are stretches.
        personal: share of the queries that stand after the history of a user who took the item.
        spelled: chance of a word to be written as an unknown one.
        seed: of all choices.
    """

    share: float = 0.2
    queries: int = 200_000
    per_item: int = 16
    longest: int = 6
    subset: float = 0.5
    personal: float = 0.2
    spelled: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.share, self.subset, self.personal, self.spelled)
        if (
            not all(0 <= share <= 1 for share in shares)
            or self.share == 1
            or min(self.queries, self.per_item, self.longest) < 1
        ):
            raise ConfigError(
                "searches cannot be made up like this",
                seen=f"share={self.share}, queries={self.queries}, per_item={self.per_item}, longest={self.longest}, "
                f"subset={self.subset}, personal={self.personal}, spelled={self.spelled}",
                allowed="shares from 0 to 1 (of the training below 1), numbers of at least 1",
                fix="correct SearchConfig",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Searches:
    """Q queries with an item each.

    Attributes:
        texts: of the queries.
        items: int32 (Q,) one right item each.
        users: int64 (Q,) whose history stands before the query; -1: nobody's.
        left_out: how many were not made or not taken because evaluation asks them.
    """

    texts: Sequence[str]
    items: np.ndarray
    users: np.ndarray
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def digest(self) -> str:
        """``sha256:…`` of texts, items and users."""
        total = hashlib.sha256("\n".join(self.texts).encode())
        for array in (self.items, self.users):
            total.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return f"sha256:{total.hexdigest()}"


def make_searches(
    titles: Sequence[str],
    train: Histories,
    held_out: HeldOut,
    config: SearchConfig,
    *,
    given: Pairs | None = None,
) -> Searches:
    """Make up queries for the items that have training events or, where there are none, for all.

    Args:
        titles: of the I items.
        train: training events.
        held_out: queries that evaluation asks, by id and as bags of words (see ``queries.HeldOut``).
        config: settings.
        given: queries with items that users asked; those held out are left out, all others are taken.

    Raises:
        DataError: no title gives a query.
    """
    rng = np.random.default_rng((config.seed, 7))
    worded = [words(clean(title)) for title in titles]
    known = np.unique(train.items) if len(train.items) else np.arange(len(titles))
    known = np.array([item for item in known.tolist() if any(map(_says_something, worded[item]))], dtype=np.int64)
    if not len(known):
        raise DataError(
            "no search can be made up", seen="titles without a word", allowed="items with titles",
            fix="import items with titles, or train without searches",
        )  # fmt: skip
    total = min(config.queries, config.per_item * len(known))
    texts: list[str] = []
    items: list[int] = []
    left_out = 0
    for item in np.resize(rng.permutation(known), total).tolist():
        for _ in range(_TRIES):
            text = " ".join(_drawn(worded[item], rng, config))
            if not held_out.holds(text):
                texts.append(text)
                items.append(item)
                break
            left_out += 1
    pairs = (given or Pairs()).allowed(held_out)
    made = Searches(
        texts=[*texts, *pairs.texts],
        items=np.array([*items, *pairs.items.tolist()], np.int32),
        users=np.concatenate([np.full(len(items), -1), pairs.users.astype(np.int64)]),
        left_out=left_out + (len(given.texts) - len(pairs.texts) if given is not None else 0),
    )
    return _with_users(made, train, config, rng)


def search_rows(
    searches: Searches,
    train: Histories,
    prompt: ItemPrompt,
    config: SearchConfig,
    *,
    soft: SoftTargets | None = None,
    word_vectors: np.ndarray | None = None,
) -> TurnRows:
    """Write searches as rows; those of which nothing can be written become the item after the search token alone.

    Args:
        searches: see ``make_searches``.
        train: the histories that ``searches.users`` number.
        prompt: with the words that searches are written in.
        config: settings.
        soft: a teacher's targets, one row a search.
        word_vectors: see ``TurnRows``.
    """
    assert prompt.queries is not None, "a prompt that writes searches"
    rng = np.random.default_rng((config.seed, 8))
    first, rows, times = prompt.first_query_row, [], []
    for text, item, user in zip(searches.texts, searches.items.tolist(), searches.users.tolist(), strict=True):
        tokens = [first]
        for word in words(text):
            spelled = config.spelled and rng.random() < config.spelled
            tokens += [first + row for row in (prompt.queries.spelled if spelled else prompt.queries.tokens)(word)]
        tokens = tokens[: prompt.window]
        past, moments = _past(train, user, item, prompt.window - len(tokens))
        rows.append([*past, *tokens, item])
        times.append([*moments, *[moments[-1] if moments else 0] * (len(tokens) + 1)])
    written = Histories.from_lists(rows, times, timed=train.timed)
    return TurnRows(
        rows=written, context=written.lengths - 1, users=searches.users, share=config.share, soft=soft,
        word_vectors=word_vectors,
    )  # fmt: skip


def _drawn(title: Sequence[str], rng: np.random.Generator, config: SearchConfig) -> list[str]:
    """1 to ``longest`` words of a title, at least one of which is not a number or a single letter."""
    length = min(int(rng.integers(1, config.longest + 1)), len(title))
    chosen = list(title)
    for _ in range(_TRIES):
        if rng.random() < config.subset:
            places = np.sort(rng.permutation(len(title))[:length])
        else:
            places = int(rng.integers(0, len(title) - length + 1)) + np.arange(length)
        chosen = [title[place] for place in places.tolist()]
        if any(map(_says_something, chosen)):
            return chosen
    return [word for word in title if _says_something(word)][:length]


def _says_something(word: str) -> bool:
    return not word.isascii() or (len(word) > 2 and not word.isdigit())


def _with_users(searches: Searches, train: Histories, config: SearchConfig, rng: np.random.Generator) -> Searches:
    """Put a user who took the item before a share of the searches: who asked, or anybody; the others stand alone."""
    if not config.personal or not len(train.items):
        return replace(searches, users=np.full(len(searches), -1))
    order = np.argsort(train.items, kind="stable")
    begins = np.searchsorted(train.items[order], np.arange(int(train.items.max()) + 2))
    takes = rng.random(len(searches)) < config.personal
    items = np.minimum(searches.items, len(begins) - 2)
    many = (begins[items + 1] - begins[items]) * (searches.items == items)
    pick = order[np.minimum(begins[items] + (rng.random(len(searches)) * many).astype(np.int64), len(order) - 1)]
    anybody = np.where(many > 0, train.rows[pick].astype(np.int64), -1)
    return replace(searches, users=np.where(takes, np.where(searches.users >= 0, searches.users, anybody), -1))


def _past(train: Histories, user: int, item: int, most: int) -> tuple[list[int], list[int]]:
    """What the user had taken before the item, the newest so many, and when; nothing if he never took it."""
    items = train.of(user) if user >= 0 else train.items[:0]
    taken = np.flatnonzero(items == item)
    if not len(taken) or most < 1:
        return [], []
    end = int(taken[0])
    return items[max(end - most, 0) : end].tolist(), train.times_of(user)[max(end - most, 0) : end].tolist()
