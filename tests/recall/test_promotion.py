"""A bonus for new items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrecall.recall.channel import Candidates, Query
from genrecall.recall.promotion import PromotingChannel, fair_bonus, promoted

NEW = np.array([False, False, True, False, True])
FOUND = Candidates(
    items=np.array([[0, 1, 3, 2, 4], [1, 0, 2, -1, -1]], np.int32),
    scores=np.array([[-1, -2, -3, -3.5, -6], [-1, -2, -4, -np.inf, -np.inf]], np.float32),
)


class Fixed:
    """Always the same candidates."""

    name = "fixed"

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        return Candidates(items=FOUND.items[: len(queries), :k], scores=FOUND.scores[: len(queries), :k])


def test_new_items_move_up_by_the_bonus() -> None:
    best = promoted(FOUND, NEW, 1.0, 3)
    assert best.items.tolist() == [[0, 1, 2], [1, 0, 2]]
    np.testing.assert_allclose(best.scores[0], [-1, -2, -2.5])
    assert promoted(FOUND, NEW, 0.0, 5).items.tolist() == FOUND.items.tolist()
    assert promoted(FOUND, NEW, 9.0, 5).items.tolist()[1] == [2, 1, 0, -1, -1]


def test_the_channel_looks_deeper_than_it_is_asked() -> None:
    queries = [Query(), Query()]
    assert PromotingChannel(Fixed(), NEW, 3.0, among=5).recall(queries, 2).items.tolist() == [[2, 0], [1, 2]]
    assert PromotingChannel(Fixed(), NEW, 3.0, among=1).recall(queries, 2).items.tolist() == [[0, 1], [1, 0]]


def test_the_fair_bonus_is_the_least_that_fills_their_share() -> None:
    new = np.zeros(10, bool)
    new[[2, 4]] = True  # a fifth of the catalog; one of the four places is more than that
    bonus = fair_bonus(FOUND, new, 2)
    shown = promoted(FOUND, new, bonus, 2).items
    assert new[shown].mean() == 0.25
    assert new[promoted(FOUND, new, bonus - 1e-3, 2).items].mean() == 0.0
    np.testing.assert_allclose(bonus, 1.5, atol=1e-3)
    assert fair_bonus(FOUND, np.ones(10, bool), 2) == 0.0
    assert fair_bonus(FOUND, np.zeros(10, bool), 2) == 0.0
