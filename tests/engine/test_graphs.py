"""Which graphs are kept: those in use are never captured again, whatever else comes. Captures themselves need a GPU."""

from __future__ import annotations

import pytest
import torch

from genrecall.engine.device.graphs import Graphs


class Recorded:
    """What a capture returns."""

    def replay(self) -> None:
        """Nothing to run."""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    found = Graphs(torch.device("cuda"), 2)

    def capture(function):
        found.captured += 1
        return Recorded(), function()

    monkeypatch.setattr(found, "_capture", capture)
    return found


def test_a_size_is_captured_once_it_comes_back(graphs):
    assert [graphs.run("a", lambda: 1) for _ in range(4)] == [1] * 4
    assert (graphs.eager, graphs.captured, graphs.replayed) == (1, 1, 2)


def test_a_size_may_have_to_come_more_often(graphs):
    for _ in range(5):
        graphs.run("a", lambda: None, after=3)
    assert (graphs.eager, graphs.captured, graphs.replayed) == (3, 1, 1)


def test_a_size_is_captured_the_second_time_in_haste(graphs):
    def twice() -> None:
        with graphs.hasty():
            for _ in range(2):
                graphs.run("a", lambda: None, after=3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        twice()
    assert graphs.captured == 1
    for _ in range(2):
        graphs.run("b", lambda: None, after=3)
    assert graphs.captured == 1, "the haste is over, whatever ended it"


def test_sizes_in_use_are_not_captured_again_when_more_come_than_are_kept(graphs):
    for _ in range(30):
        for key in "abcd":
            graphs.run(key, lambda: None)
    assert graphs.captured == 2
    assert graphs.eager == 2 + 30 + 30


def test_an_idle_graph_gives_way(graphs):
    for key in "aabb":
        graphs.run(key, lambda: None)
    for _ in range(30):
        for key in "bc":
            graphs.run(key, lambda: None)
    assert graphs.captured == 3
    before = graphs.replayed
    assert [graphs.run(key, lambda: None) for key in "bc"] == [None, None]
    assert graphs.replayed == before + 2


def test_without_a_gpu_nothing_is_captured():
    graphs = Graphs(torch.device("cpu"), 2)
    for _ in range(3):
        graphs.run("a", lambda: None)
    assert (graphs.eager, graphs.captured, graphs.unusual) == (3, 0, 0)
