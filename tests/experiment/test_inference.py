"""The statistics against known truth, and against SciPy where it has the same thing."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from genrecall.errors import ConfigError, DataError
from genrecall.experiment.assignment import Arm, Layer, read_layers
from genrecall.experiment.exposure import Exposure, ExposureLog, read_exposures
from genrecall.experiment.inference import adjusted, compare, srm
from genrecall.experiment.report import ReportConfig, report, to_markdown
from genrecall.experiment.simulator import World, trial

HALVES = {"a": Arm(share=0.5), "b": Arm(share=0.5)}


@given(st.lists(st.integers(1, 2000), min_size=2, max_size=6))
def test_the_sample_ratio_is_scipys(counts: list[int]) -> None:
    users = {str(place): count for place, count in enumerate(counts)}
    expected = scipy.stats.chisquare(counts).pvalue
    assert srm(users, dict.fromkeys(users, 1.0)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_look_is_welchs_interval_in_large_samples() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 5000), rng.normal(0.1, 2, 4000)
    found, expected = compare(a, b), scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_assignment_is_stable_fair_and_independent_between_layers() -> None:
    one, other = Layer(name="x", salt="1", arms=HALVES), Layer(name="y", salt="2", arms=HALVES)
    users = [f"u{n}" for n in range(20_000)]
    first = [one.arm_of(user) for user in users]
    assert first == [one.arm_of(user) for user in users]
    assert srm({arm: first.count(arm) for arm in HALVES}, {"a": 0.5, "b": 0.5}) > 0.001
    table = np.zeros((2, 2))
    for user, arm in zip(users, first, strict=True):
        table["ab".index(arm or ""), "ab".index(other.arm_of(user) or "")] += 1
    assert scipy.stats.chi2_contingency(table).pvalue > 0.001
    small = Layer(name="x", salt="1", arms={"a": Arm(share=0.05), "b": Arm(share=0.05)})
    inside = [arm for arm in map(small.arm_of, users) if arm is not None]
    assert 0.09 < len(inside) / len(users) < 0.11
    with pytest.raises(ConfigError):
        Layer(name="x", salt="1", arms={"a": Arm(share=0.7), "b": Arm(share=0.7)})


def test_no_effect_is_found_as_often_as_promised() -> None:
    trials = [trial(World(users=600), seed, looks=8) for seed in range(600)]
    false = np.mean([not t.once.low <= 0 <= t.once.high for t in trials])
    assert 0.03 < false < 0.07
    assert np.mean([t.missed_at_any_look for t in trials]) < 0.05  # however often it is looked at
    assert np.mean([t.missed_once_at_any_look for t in trials]) > 0.08  # which one look's interval does not promise
    assert np.mean([t.srm_p < 0.001 for t in trials]) < 0.01


def test_a_real_effect_is_covered_and_sooner_seen_with_cuped() -> None:
    world = World(users=1500, effect=0.1)
    with_it = [trial(world, seed, looks=1) for seed in range(300)]
    without = [trial(world, seed, looks=1, adjust=False) for seed in range(300)]
    covered = np.mean([t.once.low <= world.truth <= t.once.high for t in with_it])
    assert 0.92 < covered < 0.98
    assert abs(np.mean([t.once.value for t in with_it]) - world.truth) < 0.02
    power = [np.mean([t.once.low > 0 for t in trials]) for trials in (with_it, without)]
    assert power[0] > power[1] + 0.05
    assert np.mean([t.once.reduction for t in with_it]) > 0.3


def test_lost_exposures_raise_the_alarm() -> None:
    alarms = [trial(World(users=4000, lost=0.15), seed, looks=1).srm_p < 0.001 for seed in range(50)]
    assert np.mean(alarms) > 0.9


def test_cuped_changes_no_mean() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=500)
    y = 2 * x + rng.normal(size=500)
    found, reduction = adjusted(y, x)
    assert found.mean() == pytest.approx(y.mean())
    assert 0.7 < reduction < 0.9
    assert adjusted(y, np.ones(500))[1] == 0.0


def test_a_report_from_logs(tmp_path: Path) -> None:
    layer = Layer(name="beam", salt="s", arms=HALVES)
    log = ExposureLog(tmp_path / "exposures.jsonl")
    rng, events = np.random.default_rng(0), []
    for number in range(400):
        user = f"u{number}"
        arm = layer.arm_of(user) or ""
        log.append(
            Exposure(time=1000.0, user_id=user, request_id=str(number), arms={"beam": arm}, items=["i1", "i2"],
                     total_ms=10.0 + number, degraded=False, filled=1, k=4)
        )  # fmt: skip
        taste = rng.poisson(1.0)
        events += [(user, "i9", 500.0)] * taste
        events += [(user, "i1", 1500.0)] * (taste + rng.poisson(2.0 if arm == "b" else 1.0))
        events += [(user, "i7", 1500.0), (user, "i1", 1e9)]  # not shown; too late
    log.close()
    with (tmp_path / "exposures.jsonl").open("a") as stream:
        stream.write('{"time": 1')  # cut off by a kill
    found = report(layer, read_exposures(tmp_path / "exposures.jsonl"), events, ReportConfig(before_s=1000))
    assert found["sound"]
    assert sum(found["users"].values()) == 400
    told = found["differences"]["b"]
    assert told["low"] < 1.0 < told["high"]
    assert told["always_low"] > 0
    assert told["reduction"] > 0.2
    assert found["guardrails"]["a"]["fill"] == 0.75
    assert "| b |" in to_markdown(found)
    json.dumps(found)


def test_users_in_two_arms_are_told(tmp_path: Path) -> None:
    layer = Layer(name="x", salt="s", arms=HALVES)
    exposures = [
        Exposure(
            time=when, user_id="u", arms={"x": arm}, request_id="1", items=[], total_ms=1.0, degraded=False, filled=0,
            k=1,
        )
        for when, arm in ((1.0, "a"), (2.0, "b"))
    ]  # fmt: skip
    found = report(layer, exposures, [])
    assert not found["sound"]
    assert "Not sound" in to_markdown(found)


def test_files_are_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text('[beam]\nsalt = "1"\n[beam.arms.wide]\nshare = 0.5\n[beam.arms.narrow]\nshare = 0.5\nbeam = 10\n')
    (layer,) = read_layers(file)
    assert layer.arms["narrow"].beam == 10
    for wrong in ("[beam]\n", "[beam.arms.a]\nshare = 'x'\n", "[beam.arms.a]\nshare = 1\nspeed = 3\n", "[",
                  "[x.arms.a]\nshare = nan\n", "[x]\nslat = 'y'\n[x.arms.a]\nshare = 1\n",
                  "[x]\ninterleave = 'false'\n[x.arms.a]\nshare = 1\n", "[x.arms.a]\nshare = 1\nbeam = 'wide'\n",
                  "[x.arms.a]\nshare = 1\nbeam = 0\n", "[x.arms.a]\nshare = 1\nchannels = 'item_cf'\n",
                  "[x.arms.a]\nshare = 1\nchannels = []\n", "[x.arms.a]\nshare = 1\nchannels = [3]\n"):  # fmt: skip
        file.write_text(wrong)
        with pytest.raises(ConfigError):
            read_layers(file)
    file.write_text("{}\n{}\n")
    with pytest.raises(DataError):
        list(read_exposures(file))
