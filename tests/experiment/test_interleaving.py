"""Team draft against its definition, and its inference against known truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrecall.errors import ConfigError
from genrecall.experiment.assignment import Arm, Layer
from genrecall.experiment.channels import by_channel
from genrecall.experiment.channels import to_markdown as channels_page
from genrecall.experiment.exposure import Exposure
from genrecall.experiment.interleaved_world import InterleavedWorld, ab_trial, interleaved_trial
from genrecall.experiment.interleaving import interleaved_report, preference, team_draft, to_markdown

ranked = st.lists(st.integers(0, 12), unique=True, max_size=10)


@given(ranked, ranked, st.integers(1, 12), st.text(max_size=4))
def test_a_draft_is_fair_and_loses_nothing(first: list[int], second: list[int], k: int, seed: str) -> None:
    draft = team_draft(first, second, k, seed)
    items, teams = [item for item, _ in draft], [team for _, team in draft]
    assert len(items) == len(set(items)) == min(k, len(set(first) | set(second)))
    assert draft == team_draft(first, second, k, seed)
    for team, own in ((0, first), (1, second)):
        picked = [own.index(item) for item, owner in draft if owner == team]
        assert picked == sorted(picked)
    for place in range(1, len(teams), 2):  # rounds in which both still had something to pick
        rest = [item for item in (first if teams[place - 1] else second) if item not in items[:place]]
        if rest:
            assert teams[place] != teams[place - 1]


def test_both_begin_equally_often() -> None:
    starts = [team_draft([1, 2], [3, 4], 4, f"request {n}")[0][1] for n in range(4000)]
    assert 0.47 < np.mean(starts) < 0.53


def test_no_preference_is_found_as_often_as_promised() -> None:
    trials = [interleaved_trial(InterleavedWorld(users=40), seed) for seed in range(150)]
    assert 0.01 < np.mean([not t.low <= 0 <= t.high for t in trials]) < 0.1
    assert np.mean([not t.always_low <= 0 <= t.always_high for t in trials]) < 0.03


def test_a_better_ranker_is_seen_with_fewer_users_than_by_arms() -> None:
    world = InterleavedWorld(users=120, noise=(0.25, 0.12))
    assert world.truth == 1
    mixed = [interleaved_trial(world, seed) for seed in range(20)]
    split = [ab_trial(world, seed) for seed in range(20)]
    power = np.mean([t.low > 0 for t in mixed]), np.mean([t.low > 0 for t in split])
    assert np.mean([t.value for t in mixed]) > 0.05
    assert power[0] > 0.8
    assert power[0] > power[1] + 0.2
    worse = [interleaved_trial(InterleavedWorld(users=120, noise=(0.12, 0.25)), seed) for seed in range(5)]
    assert np.mean([t.value for t in worse]) < -0.05


def test_a_preference_is_its_formula() -> None:
    found = preference(np.array([[2, 0], [0, 1], [1, 3], [0, 0]]))
    each = np.array([-1.0, 1.0, 0.5])
    assert (found.users, found.wins) == (3, (1, 2))
    assert found.value == pytest.approx(each.mean())
    assert found.high - found.value == pytest.approx(1.959964 * each.std(ddof=1) / 3**0.5, rel=1e-5)
    assert found.always_low < found.low
    nothing = preference(np.zeros((0, 2), np.int64))
    assert (nothing.low, nothing.always_high) == (-1.0, 1.0)


def exposure(time: float, user: str, items: str, teams: str, layer: str = "blend") -> Exposure:
    names = {"a": "old", "b": "new", ".": ""}
    return Exposure(
        time=time, user_id=user, request_id="r", arms={layer: "interleaved"}, items=list(items), total_ms=1.0,
        degraded=False, filled=0, k=3, layer=layer, teams=[names[team] for team in teams],
        found=[["generative"] if team == "b" else [] if team == "." else ["item_cf", "generative"] for team in teams],
    )  # fmt: skip


def test_events_are_credited_to_the_latest_answers_owner() -> None:
    exposures = [exposure(100, "u", "xyz", "ab."), exposure(200.7, "u", "xw", "ba"), exposure(100, "w", "xy", "ba"),
                 exposure(100, "v", "x", "a", "other")]  # fmt: skip
    events = [("u", "x", 150.0), ("u", "x", 200.0), ("u", "z", 150.0), ("u", "w", 9999.0), ("v", "x", 150.0),
              ("w", "y", 101.0), ("nobody", "x", 150.0)]  # fmt: skip
    found = interleaved_report("blend", ["old", "new"], exposures, events, window_s=1000)
    assert found["events"] == {"old": 2, "new": 1}  # x first as old's, then as new's; y of w as old's
    assert found["items"] == {"old": 3, "new": 3}
    assert (found["users"], found["answers"], found["preference"]["wins"]) == (2, 3, (1, 0))
    assert "| new |" in to_markdown(found)
    json.dumps(found)
    told = by_channel(exposures, events, 1000)
    assert told["generative"]["items_alone"] == 3
    assert told["generative"]["events_alone"] == 1
    assert told["(fallback)"]["events"] == 1
    assert "generative" in channels_page(told)


def test_a_draft_that_is_not_fair_is_told() -> None:
    exposures = [exposure(100, f"u{n}", "xy", "ab") for n in range(60)]
    found = interleaved_report("blend", ["old", "new"], exposures, [], window_s=10)
    assert not found["sound"]
    assert "Not sound" in to_markdown(found)


def test_layers_that_cannot_be_interleaved_are_refused() -> None:
    one, wide = Arm(share=0.5, channels=("a",)), Arm(share=0.5, channels=("a",), beam=5)
    for arms in ({"x": one}, {"x": one, "y": Arm(share=0.5)}, {"x": one, "y": wide}):
        with pytest.raises(ConfigError, match="cannot be interleaved"):
            Layer(name="blend", salt="1", arms=arms, interleave=True)
