"""Channels as teachers of searches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.search_teacher import SearchTeacherConfig, search_targets


class Fixed:
    """Answers by the text, and counts how often it is asked."""

    def __init__(self, name: str, answers: dict[str, dict[int, float]]) -> None:
        self.name, self.answers, self.asked = name, answers, 0

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        self.asked += len(queries)
        items = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for row, query in enumerate(queries):
            found = sorted(self.answers.get(query.text or "", {}).items(), key=lambda pair: -pair[1])
            items[row, : len(found)] = [item for item, _ in found]
            scores[row, : len(found)] = [score for _, score in found]
        return Candidates(items=items, scores=scores)


def test_scores_are_levelled_added_and_sharpened() -> None:
    words = Fixed("words", {"oil": {1: 8.0, 2: 4.0}})
    vectors = Fixed("vectors", {"oil": {2: 0.5, 3: 0.25, 4: -0.1}})
    config = SearchTeacherConfig(trust=0.5, sharpness=2.0, items=3)
    told = search_targets([words, vectors], ["oil", "nothing", "oil"], config, digest="d")
    assert words.asked == 2
    assert told.digest == "d"
    assert told.items[0].tolist() == [2, 1, 3]
    np.testing.assert_allclose(told.weights[0], 0.5 * np.array([1.5**2, 1, 0.5**2]) / 3.5, atol=1e-3)
    np.testing.assert_array_equal(told.items[2], told.items[0])
    assert not told.weights[1].any()


def test_channels_may_weigh_more_or_nothing() -> None:
    words, vectors = Fixed("words", {"oil": {1: 8.0}}), Fixed("vectors", {"oil": {2: 0.5}})
    told = search_targets([words, vectors], ["oil"], SearchTeacherConfig(weights=(1.0, 0.0), trust=1.0))
    assert told.weights[0, :2].tolist() == [1, 0]
    assert told.items[0, 0] == 1
    with pytest.raises(ConfigError, match="no say"):
        SearchTeacherConfig(weights=(0.0, 0.0))
    assert search_targets([words], [], SearchTeacherConfig()).items.shape[0] == 0
