"""Off-policy estimates against a world whose truth is known."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from genrecall.errors import DataError
from genrecall.eval.ope import evaluate_off_policy
from genrecall.eval.ope_world import OffPolicyWorld, logged
from genrecall.experiment.exploring import explored

WORLD = OffPolicyWorld(users=400)
TRIALS = 200


def test_exploration_is_as_likely_as_it_says() -> None:
    seen, told = Counter[tuple[str, int]](), dict[tuple[str, int], float]()
    for number in range(20_000):
        shown, chances = explored("abcd", 0.4, str(number))
        for place, (item, chance) in enumerate(zip(shown, chances, strict=True)):
            seen[item, place] += 1
            told[item, place] = chance
    assert len(told) == 16
    for key, chance in told.items():
        assert seen[key] / 20_000 == pytest.approx(chance, abs=0.015)
    assert explored("abcd", 0.4, "x") == explored("abcd", 0.4, "x")
    assert explored("", 0.4, "x") == ([], [])


def test_the_truth_is_found_and_covered() -> None:
    population = float(np.mean([logged(replace(WORLD, users=20_000), 10_000 + seed)[1] for seed in range(3)]))
    found = [evaluate_off_policy(logged(WORLD, seed)[0]) for seed in range(TRIALS)]
    for name in ("ips", "snips", "dr"):
        values = [one.estimates[name] for one in found]
        bias = np.mean([one.value for one in values]) / population - 1
        covered = np.mean([one.low <= population <= one.high for one in values])
        assert abs(bias) < 0.02, name
        assert 0.91 <= covered <= 0.99, name  # 95%; three standard errors of 200 trials are 4.6 points
    spread = {name: np.std([one.estimates[name].value for one in found]) for name in ("ips", "snips", "dr")}
    assert spread["dr"] < spread["ips"]
    assert np.mean([one.support for one in found]) == pytest.approx(1, abs=0.02)
    # The naive answer, what was clicked in the log, is not what the other way would have earned.
    assert np.mean([one.logged.high for one in found]) < population


def test_too_little_is_refused_and_what_was_never_shown_is_told() -> None:
    few, _ = logged(replace(WORLD, users=10), 0)
    with pytest.raises(DataError, match="too little"):
        evaluate_off_policy(few)
    log, _ = logged(WORLD, 0)
    elsewhere = np.where(log.wanted % 2 == 0, 10_000, log.wanted)
    unseen = replace(log, wanted=elsewhere, target=log.target * (log.item % 2 == 1))
    assert evaluate_off_policy(unseen).support < 0.7
