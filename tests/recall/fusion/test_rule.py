from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Channel
from genrecall.recall.fusion import FusedChannel, Fusion, FusionConfig
from genrecall.recall.fusion.calibration import Calibration
from genrecall.recall.fusion.learned import Scorer
from genrecall.recall.item_cf import ItemCfChannel
from genrecall.recall.popularity import PopularityChannel
from genrecall.recall.transition import TransitionChannel

from ..contract import NUM_ITEMS, ChannelContract, ask, checkerboard
from .lists import COUNTS, answers, several


def scorer(channels: int, seed: int = 0) -> Scorer:
    rng = np.random.default_rng(seed)
    width, hidden, members = 3 + 6 * channels, 4, 2
    shapes = {"linear": (members, width), "inner": (members, width, hidden), "bias": (members, hidden)}
    return Scorer(
        mean=np.zeros(width),
        spread=np.ones(width),
        outer=rng.normal(size=(members, hidden)),
        **{name: rng.normal(size=shape) for name, shape in shapes.items()},
    )


def fusion(method: Any, names: list[str], weights: list[float] | None = None, counts: np.ndarray = COUNTS) -> Fusion:
    """One of each kind; every second channel is taken as it is (log-probabilities)."""
    scales = tuple("plain" if number % 2 else "log" for number in range(len(names)))
    config = FusionConfig(channels=names, method=method, constant=10.0, scales=() if method == "rrf" else scales)
    calibrations = [Calibration(scale=scale, slope=1.5, reach=0.9) for scale in config.scales]
    return Fusion(
        config,
        counts,
        weights=None if weights is None else np.array(weights),
        calibrations=calibrations,
        scorer=scorer(len(names)) if method == "learned" else None,
    )


class TestRrf(ChannelContract):
    method = "rrf"

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.file = tmp_path / "state.safetensors"

    def fit(self) -> FusedChannel:
        histories = checkerboard()
        self.channels: list[Channel] = [
            TransitionChannel.fit(histories, NUM_ITEMS),
            PopularityChannel.fit(histories, NUM_ITEMS),
            ItemCfChannel.fit(histories, NUM_ITEMS),
        ]
        names = ["item_cf", "transition"]
        made = fusion(self.method, names, [1.0, 2.0], histories.item_counts(NUM_ITEMS))
        if made.config.scales:
            made.config = FusionConfig(**{**asdict(made.config), "scales": ("log", "log")})
            made.calibrations = [Calibration(scale="log", slope=1.0, reach=0.9)] * 2
        return FusedChannel(self.channels, made)

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, FusedChannel)
        save_file(channel.state(), self.file)
        config = FusionConfig(**json.loads(json.dumps(asdict(channel.config))))
        assert config == channel.config
        return FusedChannel.from_state(load_file(self.file), config, self.channels)


class TestWeighted(TestRrf):
    method = "weighted"


class TestLearned(TestRrf):
    method = "learned"
    personal = False  # its weights are drawn at random


METHODS = st.sampled_from(["rrf", "weighted", "learned"])


@settings(deadline=None, max_examples=40)
@given(several(), METHODS, st.permutations(["c0", "c1", "c2"]))
def test_the_order_in_which_channels_come_does_not_matter(
    candidates: dict[str, Candidates], method: str, order: list[str]
) -> None:
    made = fusion(method, list(candidates))
    first = made.fuse(candidates, 12, np.array([1, 5, 2]))
    again = made.fuse({name: candidates[name] for name in order}, 12, np.array([1, 5, 2]))
    np.testing.assert_array_equal(first.items, again.items)
    if method != "learned":
        weights = {"c0": 0.5, "c1": 1.0, "c2": 2.0}
        one = fusion(method, ["c0", "c1", "c2"], [weights[name] for name in ("c0", "c1", "c2")])
        other = fusion(method, order, [weights[name] for name in order])
        calibrations = dict(zip(("c0", "c1", "c2"), one.calibrations, strict=False))
        other.calibrations = [calibrations[name] for name in order] if calibrations else []
        np.testing.assert_allclose(one.fuse(candidates, 12).scores, other.fuse(candidates, 12).scores, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(several(), METHODS, st.integers(1, 14))
def test_lists_hold_the_union_once_and_nothing_else(candidates: dict[str, Candidates], method: str, k: int) -> None:
    answer = fusion(method, list(candidates)).fuse(candidates, k)
    for row in range(3):
        found = [item for item in answer.items[row].tolist() if item >= 0]
        union = {int(item) for one in candidates.values() for item in one.items[row] if item >= 0}
        assert len(set(found)) == len(found) == min(k, len(union))
        assert set(found) <= union
    np.testing.assert_array_equal(answer.items < 0, np.isneginf(answer.scores))
    with np.errstate(invalid="ignore"):
        assert not np.any(np.diff(answer.scores, axis=1) > 0)


@settings(deadline=None, max_examples=30)
@given(several(channels=2), st.sampled_from(["rrf", "weighted"]))
def test_a_single_channel_keeps_its_order(candidates: dict[str, Candidates], method: str) -> None:
    for number, (name, alone) in enumerate(candidates.items()):
        made = fusion(method, [name])
        if made.calibrations:
            made.calibrations = [Calibration(scale=("log", "plain")[number], slope=0.7, reach=0.3)]  # type: ignore[arg-type]
        np.testing.assert_array_equal(made.fuse({name: alone}, 8).items, alone.items)


@settings(deadline=None, max_examples=20)
@given(several(requests=1), METHODS)
def test_an_explanation_repeats_the_list_with_its_evidence(candidates: dict[str, Candidates], method: str) -> None:
    made = fusion(method, list(candidates))
    answer = made.fuse(candidates, 12)
    explained = made.explain(candidates, 12)[0]
    assert [part.item for part in explained] == [item for item in answer.items[0].tolist() if item >= 0]
    for part in explained:
        for name, one in candidates.items():
            listed = one.items[0].tolist()
            assert part.ranks.get(name, 0) == (listed.index(part.item) + 1 if part.item in listed else 0)
            if name in part.ranks:
                assert part.scores[name] == one.scores[0, part.ranks[name] - 1]


def test_rrf_and_weights_by_hand() -> None:
    candidates = {"c0": answers([(3, 2.0), (5, 1.0)]), "c1": answers([(5, 9.0), (8, 8.0)])}
    answer = fusion("rrf", ["c0", "c1"], [1.0, 0.5]).fuse(candidates, 3)
    assert answer.items.tolist() == [[5, 3, 8]]
    np.testing.assert_allclose(answer.scores, [[1 / 12 + 0.5 / 11, 1 / 11, 0.5 / 12]], rtol=1e-6)
    assert fusion("rrf", ["c0", "c1"], [1.0, 0.0]).fuse(candidates, 3).items.tolist() == [[3, 5, 8]]


def test_history_length_is_read_by_the_learned_method() -> None:
    candidates = {"c0": answers([(3, 2.0), (5, 1.0), (7, 0.5)]), "c1": answers([(5, -1.0), (8, -2.0), (9, -3.0)])}
    made = fusion("learned", ["c0", "c1"])
    short, long = (made.fuse(candidates, 5, np.array([length])).scores for length in (1, 50))
    assert not np.array_equal(short, long)


def test_what_is_missing_is_named() -> None:
    made = fusion("rrf", ["c0", "c1"])
    with pytest.raises(ConfigError, match="c1"):
        made.fuse({"c0": answers([(1, 1.0)])}, 3)
    with pytest.raises(ConfigError, match="channels that are not there"):
        FusedChannel([PopularityChannel.fit(checkerboard(), NUM_ITEMS)], made)
    silent = {"c0": answers([(1, 1.0)]), "c1": answers([])}
    assert made.fuse(silent, 2).items.tolist() == [[1, -1]]


def test_exclusions_reach_every_channel_and_its_own_evidence_is_told() -> None:
    histories = checkerboard()
    channels: list[Channel] = [
        TransitionChannel.fit(histories, NUM_ITEMS),
        ItemCfChannel.fit(histories, NUM_ITEMS).named("similar"),
    ]
    fused = FusedChannel(channels, fusion("rrf", ["transition", "similar"], counts=histories.item_counts(NUM_ITEMS)))
    explained = fused.explain([ask(0, 2, exclude=(0, 2, 4))], 5)[0]
    assert not {0, 2, 4} & {part.item for part in explained}
    assert explained[0].ranks == {"transition": 1, "similar": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": ()},
        {"channels": ("a", "a")},
        {"method": "odd"},
        {"top": 0},
        {"constant": 0.0},
        {"method": "weighted"},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FusionConfig(**{"channels": ("a", "b"), **wrong})
