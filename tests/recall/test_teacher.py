"""Soft targets: out of fold, mixed, sharpened, shared with what comes next."""

from __future__ import annotations

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates
from genrecall.recall.popularity import PopularityChannel
from genrecall.recall.teacher import Teacher, TeacherConfig, soft_targets

HISTORIES = Histories.from_lists([[0, 1, 2, 3], [1, 2, 4], [0, 2, 1], [5], [], [3, 4, 0, 1, 2]])


class Says:
    """Always the same list."""

    name = "says"

    def __init__(self, items, scores):
        self.items, self.scores = np.array(items, np.int32), np.array(scores, np.float32)

    def recall(self, queries, k):
        rows = [
            np.concatenate([x, np.full(max(k - len(x), 0), fill)])[:k]
            for x, fill in ((self.items, -1), (self.scores, -np.inf))
        ]
        return Candidates(
            items=np.tile(rows[0].astype(np.int32), (len(queries), 1)), scores=np.tile(rows[1], (len(queries), 1))
        )


def test_a_teacher_never_saw_the_users_it_is_asked_of():
    asked_without = []

    def fit(histories: Histories) -> PopularityChannel:
        asked_without.append(set(np.flatnonzero(histories.lengths == 0)) - {4})
        return PopularityChannel.fit(histories, 6)

    soft_targets([Teacher(name="popularity", fit=fit, folds=3)], HISTORIES, TeacherConfig(items=3))
    assert set.union(*asked_without) == {0, 1, 2, 3, 5}
    assert sum(map(len, asked_without)) == 5  # each user is left out of exactly one fold


def test_shares_are_mixed_then_sharpened():
    teachers = [
        Teacher(name="a", fit=lambda h: Says([1, 2], [3.0, 1.0]), folds=2, weight=1.0),
        Teacher(name="b", fit=lambda h: Says([2, 3], np.log([0.5, 0.5])), folds=2, weight=3.0, log_scores=True),
    ]
    soft = soft_targets(teachers, HISTORIES, TeacherConfig(trust=0.5, sharpness=2.0, items=3))
    mixture = np.array([0.25 * 0.75, 0.25 * 0.25 + 0.75 * 0.5, 0.75 * 0.5])  # of items 1, 2, 3
    right = 0.5 * mixture**2 / (mixture**2).sum()
    event = 2
    told = dict(zip(soft.items[event].tolist(), soft.weights[event].tolist(), strict=True))
    assert [told[item] for item in (1, 2, 3)] == pytest.approx(right, abs=1e-3)
    first = HISTORIES.offsets[:-1][HISTORIES.lengths > 0]
    assert not soft.weights[first].any()  # nothing came before them


def test_only_the_last_events_have_a_teacher():
    soft = soft_targets(
        [Teacher(name="a", fit=lambda h: Says([1], [1.0]), folds=2)], HISTORIES, TeacherConfig(last=1, items=1)
    )
    taught = np.flatnonzero(soft.weights.sum(1))
    assert taught.tolist() == [3, 6, 9, 15]


def test_the_next_events_share_what_the_teacher_leaves():
    soft = soft_targets([], HISTORIES, TeacherConfig(future=(0.5, 0.25)))
    assert soft.items[0].tolist() == [1, 2]
    assert soft.weights[0].tolist() == pytest.approx([0.5 / 1.75, 0.25 / 1.75], abs=1e-3)
    assert soft.weights[3].tolist() == [0, 0]  # the last event of its user
    assert soft.weights[2].tolist() == pytest.approx([0.5 / 1.5, 0], abs=1e-3)
    taught = soft_targets(
        [Teacher(name="a", fit=lambda h: Says([4], [1.0]), folds=2)],
        HISTORIES,
        TeacherConfig(trust=0.6, items=1, future=(1.0,)),
    )
    assert taught.weights[1].tolist() == pytest.approx([0.6, 0.2], abs=1e-3)


def test_settings_that_mean_nothing_are_refused():
    for wrong in ({"trust": 0}, {"sharpness": 0}, {"items": 0}, {"last": 0}):
        with pytest.raises(ConfigError, match="teach like this"):
            TeacherConfig(**wrong)
