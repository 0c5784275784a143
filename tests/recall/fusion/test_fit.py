from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates
from genrecall.recall.fusion import Fusion, FusionFit, contributions, fit_fusion, fit_on_candidates, recency
from genrecall.recall.fusion.calibration import fit_calibration
from genrecall.recall.fusion.features import feature_names, features
from genrecall.recall.fusion.fit import halves
from genrecall.recall.fusion.learned import LearnedConfig, fit_scorer
from genrecall.recall.fusion.pool import Pool
from genrecall.recall.fusion.weights import climb, reciprocal_ranks
from genrecall.recall.item_cf import ItemCfChannel
from genrecall.recall.selection import Popularity
from genrecall.recall.transition import TransitionChannel

from ..contract import NUM_ITEMS, ask, checkerboard
from .lists import answers

ITEMS, CASES = 40, 400
QUICK = FusionFit(
    top=10,
    constants=(10.0,),
    learned=(LearnedConfig(hidden=0, members=1, steps=15), LearnedConfig(members=1, steps=15)),
)


def world(seed: int = 0) -> tuple[dict[str, Candidates], np.ndarray, np.ndarray]:
    """Targets, and channels of which ``sharp`` and ``broad`` each find some of them, and ``noise`` none on purpose."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, ITEMS, CASES)
    chances = {"sharp": (0.5, 1), "broad": (0.8, 6), "noise": (0.0, 1)}
    candidates = {}
    for name, (reach, depth) in chances.items():
        rows = []
        for target in targets:
            listed = [item for item in rng.permutation(ITEMS).tolist() if item != target][:10]
            if rng.random() < reach:
                listed[rng.integers(0, depth)] = int(target)
            rows.append([(item, 1.0 / (place + 1)) for place, item in enumerate(listed)])
        candidates[name] = answers(*rows)
    return candidates, targets, np.ones(ITEMS)


def test_weights_find_out_whom_to_trust() -> None:
    candidates, targets, counts = world()
    pool = Pool.of(list(candidates.values()), Popularity(counts), 10)
    found = np.flatnonzero(pool.find(targets) >= 0)
    pool = pool.take(found)
    sharp, broad, noise = climb(pool, reciprocal_ranks(pool, 10.0), pool.find(targets[found]))
    assert sharp > noise
    assert broad > noise


def test_the_learned_scorer_beats_equal_weights_and_repeats_itself() -> None:
    candidates, targets, counts = world()
    pool = Pool.of(list(candidates.values()), Popularity(counts), 10)
    found = np.flatnonzero(pool.find(targets) >= 0)
    pool = pool.take(found)
    goals, lengths = pool.find(targets[found]), np.arange(len(found))
    calibrations = [fit_calibration(pool, channel, goals, CASES) for channel in range(3)]
    known = features(pool, calibrations, lengths, 3.0)
    assert known.shape == (len(pool.items), len(feature_names(["a", "b", "c"])))
    part = np.arange(0, len(pool.items), 7)
    np.testing.assert_array_equal(features(pool, calibrations, lengths, 3.0, part), known[part])
    plain = pool.places(reciprocal_ranks(pool, 10.0).sum(1), goals)
    for config in QUICK.learned:
        scorer = fit_scorer(pool, calibrations, lengths, 3.0, goals, config)
        places = pool.places(scorer.values(known), goals)
        assert (places == 1).mean() > (plain == 1).mean() + 0.05
        again = fit_scorer(pool, calibrations, lengths, 3.0, goals, config)
        np.testing.assert_array_equal(again.values(known), scorer.values(known))


def test_the_fusion_beats_its_channels_and_reports_all_that_was_tried() -> None:
    candidates, targets, counts = world()
    fusion = fit_on_candidates(candidates, targets, counts=counts, config=QUICK)
    report: dict[str, Any] = json.loads(json.dumps(fusion.report))
    assert [row["method"] for row in report["tried"]] == ["rrf", "rrf", "weighted", "weighted", "learned", "learned"]
    assert report["ndcg@10"] == max(row["ndcg@10"] for row in report["tried"])
    assert report["ndcg@10"] > max(row["ndcg@10"] for row in report["channels"].values())
    assert report["cases"] == {"fit": 200, "select": 200}
    # On cases that nobody chose anything by, too.
    fresh, answers_, _ = world(seed=1)

    def first(one: Candidates) -> float:
        return float((one.items[:, 0] == answers_).mean())

    assert first(fusion.fuse(fresh, 10)) > max(map(first, fresh.values()))


def test_figures_do_not_depend_on_the_order_of_channels() -> None:
    candidates, targets, counts = world()
    one = fit_on_candidates(candidates, targets, counts=counts, config=QUICK)
    other = fit_on_candidates(dict(reversed(candidates.items())), targets, counts=counts, config=QUICK)
    for report in (one.report, other.report):
        report.pop("seconds")
    assert one.report == other.report
    np.testing.assert_array_equal(one.fuse(candidates, 10).items, other.fuse(candidates, 10).items)


def test_what_items_are_like_now_is_told_by_times() -> None:
    day = 86_400
    rows, times = [[0, 1], [0, 2], [0, 1]], [[0, 3 * day], [day, 10 * day], [2 * day, 10 * day]]
    told = recency(Histories.from_lists(rows, times), 4)
    assert told is not None
    days = np.expm1(told[:, :2])
    np.testing.assert_allclose(days, [[10, 8], [7, 0], [0, 0], [0, 10]], rtol=1e-5)
    assert told[2, 2] > told[1, 2] > told[3, 2] == 0 > told[0, 2]
    assert recency(Histories.from_lists(rows), 4) is None


def test_the_learned_scorer_sees_that_young_items_are_ranked_too_low() -> None:
    candidates, targets, counts = world()
    rng = np.random.default_rng(3)
    targets = rng.integers(0, ITEMS // 4, CASES)  # young ones, of which these channels know nothing
    facts = np.repeat([[0.0], [5.0]], [ITEMS // 4, ITEMS - ITEMS // 4], axis=0).astype(np.float32)
    only = replace(QUICK, methods=("learned",))
    without = fit_on_candidates(candidates, targets, counts=counts, config=only)
    fusion = fit_on_candidates(candidates, targets, counts=counts, facts=facts, config=only)
    assert fusion.report["ndcg@10"] > 1.2 * without.report["ndcg@10"]
    again = Fusion.from_state(fusion.state(), fusion.config)
    np.testing.assert_array_equal(again.fuse(candidates, 10).items, fusion.fuse(candidates, 10).items)
    assert "facts" not in without.state()  # as in bundles of before


def test_a_fusion_goes_on_after_other_events() -> None:
    candidates, targets, counts = world()
    before = Histories.from_lists([[0, 1, 2]], [[0, 1, 2]])
    known = recency(before, ITEMS)
    only = replace(QUICK, methods=("learned",), learned=QUICK.learned[:1])
    fusion = fit_on_candidates(candidates, targets, counts=counts, facts=known, config=only)
    later = Histories.from_lists([[0, 1, ITEMS]], [[0, 1, 200_000]])
    moved = fusion.after(later, ITEMS + 1)
    np.testing.assert_array_equal(moved.facts, recency(later, ITEMS + 1))
    np.testing.assert_array_equal(moved.popularity.counts, later.item_counts(ITEMS + 1))
    assert moved.scorer is not None
    assert moved.fuse(candidates, 10).items.shape == (CASES, 10)


def test_one_method_can_be_asked_for() -> None:
    candidates, targets, counts = world()
    for method in ("rrf", "weighted", "learned"):
        fusion = fit_on_candidates(candidates, targets, counts=counts, config=replace(QUICK, methods=(method,)))
        assert fusion.config.method == method


def test_a_late_channel_costs_no_more_than_what_it_knows() -> None:
    candidates, targets, counts = world()
    best = 9 + np.random.default_rng(2).random(CASES) / 10  # nearly the same popular list for everybody
    same = answers(*[[(item, score - item / 100) for item in range(5)] for score in best])
    config = replace(QUICK, methods=("learned",), learned=(LearnedConfig(members=1, decay=1e-4),))
    fusion = fit_on_candidates({**candidates, "popular": same}, targets, counts=counts, config=config)
    parts = contributions(fusion, {**candidates, "popular": same}, targets, k=5)
    assert parts["popular"].recall_lost < 0.05 < parts["broad"].recall_lost


def test_a_users_cases_stay_together() -> None:
    users = np.repeat(np.arange(50), 4)
    first, second = halves(users, seed=0)
    assert not set(users[first]) & set(users[second])
    assert sorted([*first, *second]) == list(range(200))
    assert len(first) == len(second) == 100


def test_channels_can_be_asked_directly() -> None:
    histories = checkerboard()
    channels = [TransitionChannel.fit(histories, NUM_ITEMS), ItemCfChannel.fit(histories, NUM_ITEMS)]
    queries = [ask(start, start + 2, exclude=(start, start + 2)) for start in range(10)] * 2
    targets = np.array([start + 4 for start in range(10)] * 2)
    config = replace(QUICK, methods=("rrf",))
    fused = fit_fusion(channels, queries, targets, counts=histories.item_counts(NUM_ITEMS), config=config)
    assert fused.name == "fused"
    found = fused.recall(queries, 3).items
    assert (found == targets[:, None]).any(1).all()


def test_contributions_say_what_is_lost() -> None:
    candidates = {
        "a": answers([(1, 3.0), (2, 2.0)], [(4, 1.0)], [(5, 1.0)]),
        "b": answers([(1, 3.0)], [(6, 1.0)], [(7, 2.0), (5, 1.0)]),
        "idle": answers([], [], [(8, 1.0)]),
    }
    targets = np.array([2, 6, 5])
    cases = {name: Candidates(items=a.items, scores=a.scores) for name, a in candidates.items()}
    fusion = fit_on_candidates(cases, targets, counts=np.ones(9), config=replace(QUICK, methods=("rrf",), seed=1))
    parts = contributions(fusion, candidates, targets, k=10)
    assert (parts["a"].recall_lost, parts["a"].only) == pytest.approx((1 / 3, 1 / 3))
    assert (parts["b"].recall_lost, parts["b"].only) == pytest.approx((1 / 3, 1 / 3))
    assert (parts["idle"].recall_lost, parts["idle"].only) == (0, 0)
    assert parts["a"].ndcg_lost > 0


def test_without_hits_or_channels_there_is_nothing_to_fit() -> None:
    _, targets, counts = world()
    with pytest.raises(ConfigError, match="nothing to learn"):
        fit_on_candidates({"a": answers(*[[(1, 1.0)]] * 4)}, np.full(4, 2), counts=counts)
    with pytest.raises(ConfigError, match="cannot be fused"):
        fit_on_candidates({}, targets, counts=counts)
