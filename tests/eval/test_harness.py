from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Cases, leave_one_out
from genrecall.errors import ConfigError
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.harness import evaluate, queries_of
from genrecall.eval.lock import Final, readings
from genrecall.eval.protocol import Protocol
from genrecall.recall.channel import Barred, Candidates, Channel, Query
from genrecall.recall.generative import GenerativeChannel, GenerativeConfig
from genrecall.recall.popularity import PopularityChannel
from genrecall.sid.space import SidSpace
from genrecall.sid.table import SidTable

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
    assert result.ranks is not None
    assert result.ranks.tolist() == [[2, 1, 0]]
    assert result.metrics["recall@5"].mean == pytest.approx(2 / 3)
    assert result.metrics["mrr@10"].mean == pytest.approx(0.5)
    assert result.metrics["ndcg@10"].mean == pytest.approx((1 / np.log2(3) + 1) / 3)
    assert result.metrics["recall@5"].low <= 2 / 3 <= result.metrics["recall@5"].high
    assert result.lists["coverage@10"] == 5 / NUM_ITEMS
    assert result.deviation("recall@5") is None


def test_a_collapsed_recommender_scores_near_zero() -> None:
    channel = Fixed("collapsed", [[39]])
    result = run([channel], cases(list(range(1, 40)))).results["collapsed"]
    assert result.metrics["recall@10"].mean == pytest.approx(1 / 39)
    assert result.lists["gini@10"] == pytest.approx(1 - 1 / NUM_ITEMS)


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


@dataclass
class Raw:
    """Answers with these arrays, whatever they are."""

    items: np.ndarray
    scores: np.ndarray
    name: str = "raw"

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        return Candidates(items=self.items, scores=self.scores)


FALLING = -np.arange(10, dtype=np.float32)[None]


@pytest.mark.parametrize(
    ("items", "scores", "words"),
    [
        (np.zeros((1, 10, 3), np.int32), FALLING, r"returned \(1, 10, 3\)"),  # codes in the place of items
        (np.full((1, 10), "<a_1><b_2>"), FALLING, "not item indices"),
        (np.arange(1, 13, dtype=np.int32)[None], FALLING, r"returned \(1, 12\)"),  # a SID's owners beside the k items
        (np.arange(1, 11, dtype=np.int32)[None], FALLING[:, ::-1], "scores rise"),
        (np.arange(1, 11, dtype=np.int32)[None], np.full((1, 10), np.nan), "scores rise, or are no numbers"),
        (np.arange(1, 11, dtype=np.int32)[None], FALLING[:, :5], "one score an item"),
    ],
)
def test_lists_hold_items_and_nothing_else(items: np.ndarray, scores: np.ndarray, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        run([Raw(items, scores)], cases([6]))


@pytest.mark.parametrize(("cap", "ranks"), [(1, [1, 0, 2]), (None, [1, 2, 3])])
def test_of_two_items_with_one_sid_only_the_ranked_one_counts(cap: int | None, ranks: list[int]) -> None:
    """Items 3 and 5 share a SID, 3 is the more popular: writing the SID is no hit on 5 unless 5 has a place itself."""
    table = SidTable(
        space=SidSpace((8,)),
        item_ids=[f"i{n}" for n in range(NUM_ITEMS)],
        sids=np.where(np.isin(np.arange(NUM_ITEMS), (3, 5)), 1, np.where(np.arange(NUM_ITEMS) == 7, 2, 3))[:, None],
    )

    class Engine:
        class trie:
            num_items = NUM_ITEMS

        def generate(self, requests: list[Any]) -> list[Any]:
            return [SimpleNamespace(sids=[(1,), (2,)], scores=[-0.5, -1.5]) for _ in requests]

    prompts = SimpleNamespace(encode=lambda *facts: [0])
    counts = np.arange(NUM_ITEMS)[::-1]
    settings = GenerativeConfig(beam=10, items_per_sid=cap)
    channel = GenerativeChannel(Engine(), prompts, table, counts, settings)  # type: ignore[arg-type]
    found = run([channel], cases([3, 5, 7])).results["generative"]
    assert found.ranks is not None
    assert found.ranks[0].tolist() == ranks
    without = Query(exclude=np.array([7], np.int32), barred=Barred(np.arange(NUM_ITEMS) != 3))
    assert channel.recall([without], 3).items.tolist() == [[5, -1, -1]]


def test_test_cases_are_locked_and_each_reading_is_recorded(tmp_path: Path) -> None:
    asked = dataclasses.replace(cases([6, 8]), part="test")
    channel = Fixed("fixed", [[6]])
    for locked in (lambda: run([channel], asked), lambda: queries_of(asked.subset(np.array([0])), PROTOCOL)):
        with pytest.raises(ConfigError, match="the test part is locked"):
            locked()
    assert channel.asked == []
    final = Final(run=tmp_path / "run", purpose="a table", bundle="sha256:b", catalog="sha256:c")
    assert run([channel], cases([6]), final=final).readings == 0
    assert not final.ledger.exists()
    once = run([channel], asked, final=final)
    assert once.part == "test"
    assert "2 final test cases" in once.sentence()
    assert "This test split was read once." in once.sentence()
    assert len(queries_of(asked, PROTOCOL, final=final)) == 2
    again = run([channel], asked, dataclasses.replace(PROTOCOL, history="kept"), final=final)
    assert "This test split was read 3 times." in again.sentence()  # another protocol, the same test split
    other = run([channel], asked, Protocol(split="temporal", ks=(5,)), final=final)
    assert other.readings == 1
    assert [line["cases"] for line in readings(final.ledger)] == [2] * 4


def test_calibration_and_diversity_are_told_where_they_can_be() -> None:
    groups = np.arange(NUM_ITEMS) % 2
    found = run([Fixed("fixed", [[6, 8, 7]])], cases([6, 5]), log_scores=("fixed",), groups=groups)
    told = found.calibration("fixed", 10)
    assert told is not None
    assert told.probability
    assert sum(part.cases for part in told.bins) == 2
    assert told.bins[0].confidence == pytest.approx(1 + np.exp(-1) + np.exp(-2))
    assert found.results["fixed"].lists["diversity@10"] == pytest.approx(2 / 3)
    assert "diversity@10" not in run([Fixed("fixed", [[6]])], cases([6])).results["fixed"].lists


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
        "user": {"new": 3, "known": 3},
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
    assert set(told) == {"protocol", "runs", "metrics", "lists", "slices", "invalid_sid_rate"}
    assert told["protocol"]["part"] == "validation"
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
        protocol=Protocol(split=split.rule, timed=False),
        train_counts=split.train.item_counts(9),
        resamples=50,
    )
    assert found.results["popularity"].metrics["recall@10"].mean == 1.0  # k exceeds the catalog
    assert "30 validation cases" in found.sentence()
    assert "source order (no timestamps: items of equal time" in found.sentence()
