"""What every channel promises, on histories whose continuation is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.recall.channel import Barred, Candidates, Channel, Query

COLOURS, ROUNDS = 2, 8
NUM_ITEMS = COLOURS * ROUNDS + 2  # the last two items are never seen


def checkerboard(users: int = 24) -> Histories:
    """Each user walks the even or the odd items upwards from some place, around the end: colours never mix."""
    rows = []
    for user in range(users):
        colour, start = user % COLOURS, (user // COLOURS) % ROUNDS
        rows.append([((start + step) % ROUNDS) * COLOURS + colour for step in range(6)])
    return Histories.from_lists(rows)


def ask(*history: int, exclude: tuple[int, ...] = ()) -> Query:
    return Query(history=np.array(history, np.int32), exclude=np.array(exclude, np.int32))


def rows(answer: Candidates) -> list[list[int]]:
    return [[item for item in row if item >= 0] for row in answer.items.tolist()]


class ChannelContract(ABC):
    """Mix into a test class of one channel."""

    personal = True
    depth = 2  # the answer is among so many first items

    @abstractmethod
    def fit(self) -> Channel:
        """The channel, fitted on ``checkerboard()``."""

    @abstractmethod
    def again(self, channel: Channel) -> Channel:
        """The channel after a round trip through its state."""

    @pytest.fixture
    def channel(self) -> Channel:
        return self.fit()

    @pytest.fixture
    def queries(self) -> list[Query]:
        rng = np.random.default_rng(0)
        queries = [ask(), ask(exclude=(0, 1, 2)), ask(3), ask(3, 5, exclude=(3, 5)), ask(7, 7, 7, 999, -5)]
        for _ in range(20):
            history = rng.integers(0, NUM_ITEMS, rng.integers(1, 9))
            queries.append(ask(*history.tolist(), exclude=tuple(rng.integers(0, NUM_ITEMS, 5).tolist())))
        return queries

    def test_the_right_answer_comes_first(self, channel: Channel) -> None:
        if not self.personal:
            pytest.skip("the same list for everybody")
        for history, answer in (((0, 2, 4), 6), ((1, 3, 5), 7), ((9, 11, 13), 15)):
            found = rows(channel.recall([ask(*history, exclude=history)], 4))[0]
            assert answer in found[: self.depth]
            assert all(item % COLOURS == answer % COLOURS for item in found[: self.depth])

    def test_excluded_items_never_return_and_none_repeats(self, channel: Channel, queries: list[Query]) -> None:
        for query, found in zip(queries, rows(channel.recall(queries, NUM_ITEMS)), strict=True):
            assert len(set(found)) == len(found)
            assert not set(found) & set(query.exclude.tolist())
            assert len(found) == NUM_ITEMS - len(set(query.exclude.tolist()))

    def test_what_a_rule_bars_is_excluded_like_anything_else(self, channel: Channel, queries: list[Query]) -> None:
        """Half the catalog, nearly all of it, and nothing."""
        for available in (np.arange(NUM_ITEMS) % 3 > 0, np.arange(NUM_ITEMS) == 5, np.ones(NUM_ITEMS, dtype=bool)):
            rule = Barred(available)
            under = [replace(query, barred=rule) for query in queries]
            apart = [replace(query, exclude=query.excluded) for query in under]
            for k in (3, NUM_ITEMS):
                found, expected = channel.recall(under, k), channel.recall(apart, k)
                np.testing.assert_array_equal(found.items, expected.items)
                np.testing.assert_array_equal(found.scores, expected.scores)

    def test_scores_never_rise_and_padding_stands_last(self, channel: Channel, queries: list[Query]) -> None:
        answer = channel.recall(queries, NUM_ITEMS)
        assert answer.items.dtype == np.int32
        assert answer.scores.dtype == np.float32
        np.testing.assert_array_equal(answer.items < 0, np.isneginf(answer.scores))
        with np.errstate(invalid="ignore"):
            assert not np.any(np.diff(answer.scores, axis=1) > 0)

    def test_a_batch_answers_as_its_queries_alone(self, channel: Channel, queries: list[Query]) -> None:
        together = channel.recall(queries, 7)
        for place, query in enumerate(queries):
            alone = channel.recall([query], 7)
            np.testing.assert_array_equal(alone.items[0], together.items[place])
            np.testing.assert_array_equal(alone.scores[0], together.scores[place])

    def test_a_longer_list_begins_with_the_shorter(self, channel: Channel, queries: list[Query]) -> None:
        np.testing.assert_array_equal(channel.recall(queries, 3).items, channel.recall(queries, 9).items[:, :3])

    def test_k_beyond_the_catalog_pads(self, channel: Channel) -> None:
        answer = channel.recall([ask(0, 2)], NUM_ITEMS + 5)
        assert answer.items.shape == (1, NUM_ITEMS + 5)
        assert (answer.items[0, -5:] == -1).all()
        assert sorted(rows(answer)[0]) == list(range(NUM_ITEMS))

    def test_everything_excluded_leaves_padding(self, channel: Channel) -> None:
        assert rows(channel.recall([ask(1, exclude=tuple(range(NUM_ITEMS)))], 5)) == [[]]

    def test_without_history_the_popular_items_come(self, channel: Channel) -> None:
        counts = checkerboard().item_counts(NUM_ITEMS)
        expected = sorted(range(NUM_ITEMS), key=lambda item: (-counts[item], item))
        assert rows(channel.recall([ask()], NUM_ITEMS))[0] == expected

    def test_no_queries_no_answers(self, channel: Channel) -> None:
        assert channel.recall([], 5).items.shape == (0, 5)

    def test_state_makes_the_same_channel(self, channel: Channel, queries: list[Query]) -> None:
        before = channel.recall(queries, 9)
        for after in (self.again(channel).recall(queries, 9), channel.recall(queries, 9)):
            np.testing.assert_array_equal(before.items, after.items)
            np.testing.assert_array_equal(before.scores, after.scores)
