"""Asking a channel and holding it to its promises: what is measured is a list of distinct items of the catalog."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.selection import exclusions
from genrecall.telemetry import progress

Ask = Callable[[int, int], list[Query]]


def answers(
    channel: Channel, ask: Ask, count: int, *, num_items: int, k: int, batch: int
) -> Iterator[tuple[int, Candidates, float]]:
    """Answers to ``count`` queries in batches: first query's number, checked lists, seconds.

    Args:
        channel: who answers.
        ask: the queries from one number to before another.
        count: of queries.
        num_items: I.
        k: length of the lists.
        batch: queries a call.
    """
    with progress(f"eval {channel.name}", count) as bar:
        for begin in range(0, count, batch):
            queries = ask(begin, min(begin + batch, count))
            start = time.perf_counter()
            answer = channel.recall(queries, k)
            took = time.perf_counter() - start
            require_honest(channel.name, queries, answer, num_items, k)
            yield begin, answer, took
            bar.advance(len(queries))


def require_honest(name: str, queries: Sequence[Query], answer: Candidates, num_items: int, k: int) -> None:
    """A channel that breaks its contract would be measured wrongly: our bug, not the user's.

    Lists hold at most k *items*. A SID is a tuple of codes and has no place in them, and a SID that owns several items
    takes as many places as it returns items: nothing can be hit by "the same SID".
    """
    items, scores = answer.items, answer.scores
    assert np.issubdtype(items.dtype, np.integer), f"channel {name}: lists hold {items.dtype}, not item indices"
    assert items.shape == (len(queries), k), f"channel {name} returned {items.shape}, not {(len(queries), k)}"
    assert scores.shape == items.shape, f"channel {name}: one score an item, not {scores.shape}"
    assert np.all(scores[:, 1:] <= scores[:, :-1]), f"channel {name}: scores rise, or are no numbers"
    assert items.min(initial=0) >= -1, f"channel {name}: item out of the catalog"
    assert items.max(initial=-1) < num_items, f"channel {name}: item out of the catalog"
    ordered = np.sort(items, axis=1)
    assert not np.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)), f"channel {name} repeats items"
    rows, excluded = exclusions(queries, num_items)
    banned = np.zeros((len(queries), num_items + 1), dtype=bool)
    banned[rows, excluded] = True
    assert not np.take_along_axis(banned, items, 1)[items >= 0].any(), f"channel {name} returns excluded items"
