from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Cases, leave_one_out
from genrecall.errors import ConfigError
from genrecall.eval.harness import Evaluation, evaluate, queries_of
from genrecall.eval.protocol import Protocol
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.popularity import PopularityChannel

NUM_ITEMS = 40
PROTOCOL = Protocol(split="leave-one-out", ks=(5, 10))


@dataclass
class Fixed:
    """Answers every query with what ``answer`` makes of it."""

    name: str
    items: list[list[int]]
    asked: list[Query] = field(default_factory=list)

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        rows = np.full((len(queries), k), -1, np.int32)
        for row in range(len(queries)):
            found = self.items[(len(self.asked) + row) % len(self.items)][:k]
            rows[row, : len(found)] = found
        self.asked += queries
        scores = np.where(rows >= 0, -np.arange(k, dtype=np.float32), -np.inf).astype(np.float32)
        return Candidates(items=rows, scores=scores)


def cases(targets: list[int], histories: list[list[int]] | None = None, users: list[int] | None = None) -> Cases:
    rows = histories if histories is not None else [[0]] * len(targets)
    return Cases(
        users=np.array(users if users is not None else range(len(targets)), np.int32),
        targets=np.array(targets, np.int32),
        histories=Histories.from_lists(rows),
    )


def run(channels: Sequence[Channel], asked: Cases, protocol: Protocol = PROTOCOL, **settings: object) -> Evaluation:
    counts = np.arange(NUM_ITEMS)[::-1].copy()
    options = {"k": 10, "resamples": 200, **settings}
    return evaluate(channels, asked, num_items=NUM_ITEMS, protocol=protocol, train_counts=counts, **options)  # type: ignore[arg-type]


def test_figures_by_hand() -> None:
    channel = Fixed("fixed", [[5, 6, 7], [8, 9], []])
    result = run([channel], cases([6, 8, 5]), batch=2).results["fixed"]
    assert result.ranks.tolist() == [2, 1, 0]
    assert result.metrics["recall@5"].mean == pytest.approx(2 / 3)
    assert result.metrics["mrr@10"].mean == pytest.approx(0.5)
    assert result.metrics["ndcg@10"].mean == pytest.approx((1 / np.log2(3) + 1) / 3)
    assert result.metrics["recall@5"].low <= 2 / 3 <= result.metrics["recall@5"].high
    assert result.coverage[10] == 5 / NUM_ITEMS


def test_a_collapsed_recommender_scores_near_zero() -> None:
    channel = Fixed("collapsed", [[39]])
    result = run([channel], cases(list(range(1, 40)))).results["collapsed"]
    assert result.metrics["recall@10"].mean == pytest.approx(1 / 39)
    assert result.gini[10] == pytest.approx(1 - 1 / NUM_ITEMS)


def test_the_protocol_decides_what_is_excluded() -> None:
    asked = cases([5], [[3, 4, 3]])
    (removed,) = queries_of(asked, PROTOCOL, lambda user: {"country": f"land {user}"})
    assert removed.exclude.tolist() == [3, 4]
    assert removed.history.tolist() == [3, 4, 3]
    assert removed.times is None
    assert removed.profile == {"country": "land 0"}
    (kept,) = queries_of(asked, Protocol(split="x", history="kept"))
    assert len(kept.exclude) == 0


def test_targets_that_the_protocol_removes_are_counted_and_said() -> None:
    asked = cases([3, 5], [[3, 4], [3]])
    found = run([Fixed("none", [[1]])], asked)
    assert found.unreachable == 1
    assert "1 targets were in the removed history" in found.sentence()
    kept = run([Fixed("none", [[1]])], asked, Protocol(split="x", history="kept", ks=(5,)))
    assert kept.unreachable == 0


@pytest.mark.parametrize("dishonest", [[[5, 5]], [[0, 1]], [[NUM_ITEMS]], [[-2]]])
def test_a_channel_that_breaks_its_promise_is_not_measured(dishonest: list[list[int]]) -> None:
    with pytest.raises(AssertionError):
        run([Fixed("dishonest", dishonest)], cases([6]))


def test_what_cannot_be_evaluated_is_refused() -> None:
    channel = Fixed("same", [[1]])
    for channels, asked, k in (
        ([channel], cases([]), 10),
        ([channel], cases([1]), 9),
        ([channel, channel], cases([1]), 10),
    ):
        with pytest.raises(ConfigError):
            run(channels, asked, k=k)
    with pytest.raises(ConfigError):
        Protocol(split="x", ks=(10, 5))
    with pytest.raises(ConfigError):
        Protocol(split="x", history="maybe")  # type: ignore[arg-type]


def test_slices_add_up() -> None:
    targets = [0, 1, 8, 12, 30, 39]
    found = run([Fixed("fixed", [[1, 8]])], cases(targets, [[2], [2], [2], [3] * 7, [3] * 7, [3] * 60]))
    assert found.slice_sizes == {
        "target popularity": {"head": 2, "torso": 2, "tail": 1, "cold": 1},
        "history length": {"1-4": 3, "5-9": 2, "50+": 1},
    }
    by_popularity = found.results["fixed"].slices["target popularity"]
    assert by_popularity["head"]["recall@10"].mean == 0.5
    assert by_popularity["cold"]["recall@10"].mean == 0.0
    for group, parts in found.slice_sizes.items():
        hits = sum(found.results["fixed"].slices[group][name]["recall@10"].mean * size for name, size in parts.items())
        assert hits == pytest.approx(2)


def test_json_has_stable_keys_and_the_worst_rate() -> None:
    found = run([Fixed("generative", [[6]]), Fixed("other", [[5]])], cases([6, 5])).with_invalid_sid_rate(
        "generative", 0.25
    )
    told = json.loads(json.dumps(found.to_dict()))
    assert set(told) == {"protocol", "metrics", "lists", "slices", "invalid_sid_rate"}
    assert told["invalid_sid_rate"] == 0.25
    assert set(told["metrics"]["generative"]["recall@10"]) == {"mean", "low", "high"}
    assert told["lists"]["other"]["coverage@5"] == pytest.approx(1 / NUM_ITEMS)
    assert told["protocol"]["sentence"] == found.sentence()
    assert "history items are removed" in found.sentence()


def test_the_whole_way_on_a_split() -> None:
    split = leave_one_out(Histories.from_lists([[i % 7, (i + 1) % 7, (i + 2) % 7, 7] for i in range(30)]))
    channel = PopularityChannel.fit(split.train, 9)
    found = evaluate(
        [channel],
        split.valid,
        num_items=9,
        protocol=Protocol(split=split.rule, timed=False, part="validation"),
        train_counts=split.train.item_counts(9),
        resamples=50,
    )
    assert found.results["popularity"].metrics["recall@10"].mean == 1.0  # k exceeds the catalog
    assert "30 validation cases" in found.sentence()
    assert "source order (no timestamps)" in found.sentence()
