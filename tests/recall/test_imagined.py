"""Histories that nobody had: made of real ones but their last event, answered out of fold, trusted wholly."""

from __future__ import annotations

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates
from genrecall.recall.imagined import ImaginedConfig, imagine
from genrecall.recall.teacher import Teacher, TeacherConfig, soft_targets

HISTORIES = Histories.from_lists([[0, 1, 2, 3], [1, 2, 4], [5], [], [3, 4, 0, 1, 2]])


def test_rows_are_subsets_of_histories_without_their_last_event_or_single_items():
    made = imagine(HISTORIES, 9, ImaginedConfig(ratio=20, alone=0.25, keep=0.6))
    places = len(made.rows.items) - len(made.rows)
    assert places == pytest.approx(20 * len(HISTORIES.items), abs=4)
    single = made.rows.lengths[made.users < 0]
    assert (single == 2).all()
    assert set(made.rows.items[made.rows.offsets[:-1][made.users < 0]]) == set(range(9))
    for row in np.flatnonzero(made.users >= 0).tolist():
        past = HISTORIES.of(int(made.users[row]))[:-1].tolist()
        rest = made.rows.of(row)[:-1].tolist()
        assert rest == [item for item in past if item in rest]
        assert made.rows.of(row)[-1] == rest[-1]
    assert set(made.users) == {-1, 0, 1, 4}


def test_the_same_seed_imagines_the_same():
    config = ImaginedConfig(ratio=3, seed=4)
    assert imagine(HISTORIES, 9, config).rows.digest == imagine(HISTORIES, 9, config).rows.digest


def test_without_real_sequences_single_items_are_left():
    made = imagine(Histories.from_lists([[1], [2]]), 5, ImaginedConfig(ratio=4))
    assert (made.users == -1).all()
    assert len(made.rows) == 8


def test_teachers_answer_each_place_out_of_fold_and_are_trusted_wholly():
    made = imagine(HISTORIES, 9, ImaginedConfig(ratio=3, alone=0.3))
    fitted: list[frozenset[int]] = []

    class Says:
        name = "says"

        def __init__(self, users: frozenset[int]) -> None:
            self.users = users

        def recall(self, queries, k):
            items = np.full((len(queries), k), -1, np.int32)
            scores = np.full((len(queries), k), -np.inf, np.float32)
            items[:, 0], scores[:, 0] = min(set(range(5)) - self.users - {2, 3}, default=8), 1.0
            return Candidates(items=items, scores=scores)

    def fit(histories: Histories) -> Says:
        fitted.append(frozenset(np.flatnonzero(histories.lengths).tolist()))
        return Says(fitted[-1])

    soft = soft_targets(
        [Teacher(name="says", fit=fit, folds=5)], HISTORIES, TeacherConfig(trust=0.5, items=2), imagined=made
    )
    events = len(HISTORIES.items)
    assert len(soft.items) == events + len(made.rows.items)
    sums = soft.weights.astype(float).sum(1)
    assert set(sums[:events].round(3)) == {0.0, 0.5}
    first = np.zeros(len(made.rows.items), bool)
    first[made.rows.offsets[:-1]] = True
    assert (sums[events:][first] == 0).all()
    assert (sums[events:][~first] == 1).all()
    # Whoever answers a row made of a user's history was fitted without that user: it names a user it did not see.
    for row in np.flatnonzero(made.users >= 0).tolist():
        user, begin = int(made.users[row]), made.rows.offsets[row] + 1
        unseen = [set(range(5)) - seen - {2, 3} for seen in fitted]
        named = int(soft.items[events + begin, 0])
        assert any(user in some and min(some) == named for some in unseen)


@pytest.mark.parametrize("wrong", [{"ratio": 0}, {"share": 1}, {"alone": 2}, {"keep": 0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match="cannot be imagined"):
        ImaginedConfig(**wrong)
