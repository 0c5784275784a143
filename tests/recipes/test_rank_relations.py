"""What rankers count is what the channels count, of the training events alone."""

from __future__ import annotations

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.rank.affinity import affinity
from genrecall.rank.columns import Ragged
from genrecall.recall.channel import Query
from genrecall.recall.item_cf import ItemCfChannel
from genrecall.recall.transition import TransitionChannel
from genrecall.recipes.rank_relations import affinities_of, recent_counts

ITEMS = 30


def sequences() -> Histories:
    rng = np.random.default_rng(0)
    return Histories.from_lists([rng.permutation(ITEMS)[: rng.integers(2, 12)].tolist() for _ in range(80)])


@pytest.mark.parametrize("kind", [ItemCfChannel, TransitionChannel])
def test_a_history_is_read_as_the_channel_reads_it(kind: type[ItemCfChannel] | type[TransitionChannel]) -> None:
    train, channel = sequences(), kind.fit(sequences(), ITEMS)
    relations, numbers = affinities_of(train, ITEMS)
    number = next(one for one in numbers if one.name == channel.name)
    histories = [[1, 5, 9], [4], [], list(range(20))]
    found = affinity(number, relations[number.of], Ragged.of(histories), Ragged.of([np.arange(ITEMS)] * 4))
    queries = [Query(history=np.array(own, np.int32)) for own in histories]
    scores = np.asarray((channel.neighbours.asked(queries) @ channel.neighbours.matrix).todense())
    # Items whose weight has fallen below 1% are not read.
    np.testing.assert_allclose(np.exp(found.reshape(4, ITEMS)) - number.floor, scores, atol=0.02 * scores.max())


def test_baskets_have_a_linear_model_too() -> None:
    rows = [[1, 2, 3], [2, 3, 4], [5, 6, 2]] * 4
    baskets = Histories.from_lists(rows, times=[[7] * len(row) for row in rows])
    assert set(affinities_of(baskets, ITEMS)[0]) == {"item_cf", "transition", "linear"}
    assert set(affinities_of(sequences(), ITEMS)[0]) == {"item_cf", "transition"}


def test_recent_events_are_the_newest_of_all_users() -> None:
    rows = [[n % 3, n % 3] for n in range(10)]
    timed = Histories.from_lists(rows, times=[[2 * n, 2 * n + 1] for n in range(10)])
    found = recent_counts(timed, 3)
    assert found is not None
    assert found.tolist() == [2, 0, 0]  # 18 and 19 of 0 … 19, both of item 9 % 3
    assert recent_counts(sequences(), 3) is None
