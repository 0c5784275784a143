from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.basket import BasketChannel
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.grids import counted_grids, tune_counted
from genrecall.recall.item_cf import ItemCfChannel, ItemCfConfig
from genrecall.recall.transition import TransitionChannel, TransitionConfig
from genrecall.recall.tuning import Grid, choose, fitting, ndcg, places, sample, search

from .contract import NUM_ITEMS, ask, checkerboard


@pytest.fixture
def cases() -> tuple[list[Query], np.ndarray]:
    queries = [ask(0, 2, exclude=(0, 2)), ask(1, 3, exclude=(1, 3)), ask(4, 6), ask(15, 1), ask(12, 14)]
    return queries, np.array([4, 5, 8, 3, 0])


def transitions(config: TransitionConfig) -> Channel:
    return TransitionChannel.fit(checkerboard(), NUM_ITEMS, config)


def test_the_setting_that_ranks_best_is_chosen(cases: tuple[list[Query], np.ndarray]) -> None:
    # Users walk upwards, so backward counts cannot say what comes next.
    grid = Grid(start=TransitionConfig(directed=False, window=1), axes={"directed": (False, True), "window": (1, 2)})
    tuned = search(transitions, grid, *cases)
    assert tuned.config.directed
    assert tuned.best.ndcg == tuned.best.recall == 1.0
    assert tuned.cases == 5
    assert [row["directed"] for row in tuned.table()][:1] == [True]
    assert set(tuned.table()[0]) == {"directed", "window", "ndcg@10", "recall@10", "seconds"}


def test_nothing_is_tried_twice_and_ties_go_to_the_first(cases: tuple[list[Query], np.ndarray]) -> None:
    made = []

    def make(config: TransitionConfig) -> Channel:
        made.append(config)
        return transitions(replace(config, decay=0.5, last=5))

    grid = Grid(start=TransitionConfig(decay=0.5), axes={"decay": (0.4, 0.5, 0.6, 0.7), "last": (1, 5, 20, 50)})
    assert search(make, grid, *cases).config == grid.start
    assert len(made) == len(set(made)) == 5  # one step each way
    assert choose(make, grid.product(), *cases).config == next(grid.product())
    assert len(made) == 5 + 16
    foreign = Grid(start=grid.start, axes={"decay": (0.1, 0.2)})
    assert len(search(make, foreign, *cases).trials) == 3


def test_a_search_ends_where_no_axis_helps() -> None:
    """On a surface without local optima it finds the best of the whole product."""

    class Fixed:
        name = "fixed"

        def __init__(self, config: ItemCfConfig) -> None:
            self.place = int(abs(config.shrinkage - 3) + 4 * abs(config.decay - 0.5))

        def recall(self, queries: list[Query], k: int) -> Candidates:
            items = np.arange(1, k + 1, dtype=np.int32)
            items[self.place] = 0
            return Candidates(items=np.tile(items, (len(queries), 1)), scores=np.zeros((len(queries), k), np.float32))

    grid = Grid(
        start=ItemCfConfig(shrinkage=0.0, decay=1.0),
        axes={"shrinkage": tuple(map(float, range(7))), "decay": (0.25, 0.5, 0.75, 1.0)},
    )
    asked = [ask(1)], np.array([0])
    tuned = search(Fixed, grid, *asked)
    assert (tuned.config.shrinkage, tuned.config.decay) == (3.0, 0.5)
    assert tuned.config == choose(Fixed, grid.product(), *asked).config
    assert len(tuned.trials) < len(list(grid.product()))


@pytest.mark.parametrize("kind", [TransitionChannel, ItemCfChannel, BasketChannel])
def test_shared_counts_give_the_channels_that_fit_gives(kind: type) -> None:
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, NUM_ITEMS, 6).tolist() for _ in range(20)]
    histories = Histories.from_lists(rows, [[0, 0, 1, 1, 1, 2]] * 20)
    make = fitting(kind, histories, NUM_ITEMS)
    start = kind.suited_to(histories)
    other = {
        TransitionChannel: {"window": 2, "target_damping": 0.3},
        ItemCfChannel: {"user_items": 3, "shrinkage": 1.0},
        BasketChannel: {"size_damping": 0.0, "session_weight": 0.9},
    }[kind]
    configs = [start, replace(start, decay=0.9, last=3), replace(start, **other), start, replace(start, decay=0.2)]
    for config in configs:
        made, fitted = make(config), kind.fit(histories, NUM_ITEMS, config)
        assert made.config == config
        queries = [Query(history=np.array(row[:4], np.int32), times=np.array([0, 0, 1, 1])) for row in rows]
        for a, b in zip(vars(made.recall(queries, 9)).values(), vars(fitted.recall(queries, 9)).values(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_counted_places_are_those_of_the_lists(cases: tuple[list[Query], np.ndarray]) -> None:
    channel = transitions(TransitionConfig())

    class Lists:
        name = "lists"
        recall = staticmethod(channel.recall)

    np.testing.assert_array_equal(places(channel, *cases), places(Lists(), *cases))


def test_ndcg_by_hand() -> None:
    assert ndcg(np.array([1, 3, 0, 11])) == pytest.approx((1 + 0.5) / 4)


def test_a_sample_is_seeded_and_keeps_its_order() -> None:
    queries, targets = [ask(n) for n in range(10)], np.arange(10)
    drawn, answers = sample(queries, targets, cases=4, seed=1)
    assert [int(query.history[0]) for query in drawn] == answers.tolist() == sorted(answers.tolist())
    assert answers.tolist() == sample(queries, targets, cases=4, seed=1)[1].tolist()
    assert sample(queries, targets, cases=99)[1].tolist() == list(range(10))


def test_the_counted_channels_are_tuned_together(cases: tuple[list[Query], np.ndarray]) -> None:
    tuned = tune_counted(checkerboard(), NUM_ITEMS, *cases, cases=3)
    assert list(tuned) == ["popularity", "item_cf", "transition", "transition_undirected"]
    assert tuned["transition"].config.directed
    assert not tuned["transition_undirected"].config.directed
    assert {result.cases for result in tuned.values()} == {3}
    histories = Histories.from_lists([[0, 1, 2, 3]] * 5, [[0, 0, 0, 5]] * 5)
    assert {"basket", "linear"} <= set(counted_grids(histories, 24))


def test_the_published_settings_are_inside_the_grid() -> None:
    _, grid = counted_grids(checkerboard(), 24)["transition"]
    known = {"window": 3, "distance": "inverse", "source_damping": 0.5, "target_damping": 0.0, "last": 20, "decay": 0.5}
    assert all(value in grid.axes[name] for name, value in known.items())


@pytest.mark.parametrize("axes", [{"speed": (1,)}, {"window": ()}])
def test_senseless_grids_are_refused(axes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError):
        Grid(start=TransitionConfig(), axes=axes)


def test_without_cases_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(ConfigError, match="nothing to choose"):
        search(transitions, Grid(start=TransitionConfig(), axes={}), [], np.empty(0, np.int64))
