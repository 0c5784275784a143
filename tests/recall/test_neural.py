from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Cases, leave_one_out
from genrecall.errors import ConfigError, DataError
from genrecall.recall.channel import Channel, Query
from genrecall.recall.hstu import HstuChannel, HstuConfig
from genrecall.recall.neural import NeuralChannel
from genrecall.recall.sasrec import SasrecChannel, SasrecConfig
from genrecall.recall.two_tower import TwoTowerChannel, TwoTowerConfig
from genrecall.recall.validation import Validation
from genrecall.train.sequence.config import SequenceConfig

from .contract import NUM_ITEMS, ChannelContract, ask, checkerboard, rows

TRAIN = SequenceConfig(window=8, lengths=(4,), batch_tokens=64, learning_rate=1e-2, epochs=40, device="cpu")
KINDS: dict[type[Any], Any] = {
    SasrecChannel: SasrecConfig(width=16, blocks=1, dropout=0.1, train=TRAIN),
    HstuChannel: HstuConfig(width=16, blocks=1, heads=2, dropout=0.1, train=TRAIN),
    TwoTowerChannel: TwoTowerConfig(width=16, dropout=0.1, negatives=8, train=replace(TRAIN, learning_rate=3e-2)),
}
_FITTED: dict[type[Any], Any] = {}


class Network(ChannelContract):
    kind: type[Any]

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def fit(self) -> NeuralChannel[Any]:
        if self.kind not in _FITTED:  # once for all tests: nothing in a channel changes when it answers
            _FITTED[self.kind] = self.kind.fit(checkerboard(), NUM_ITEMS, KINDS[self.kind])
        return _FITTED[self.kind]

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, NeuralChannel)
        save_file(channel.state(), self.directory / "state.safetensors")
        settings = json.loads(json.dumps(asdict(channel.config)))
        return self.kind.from_state(load_file(self.directory / "state.safetensors"), type(channel.config)(**settings))

    def test_scores_are_the_product_of_vectors_and_rank_the_targets(self) -> None:
        channel = self.fit()
        histories = checkerboard(6)
        scores = channel.scores(histories)
        assert scores.shape == (6, NUM_ITEMS)
        assert channel.item_vectors().dtype == np.float32
        assert len(channel.item_vectors()) == NUM_ITEMS
        cases = Cases(users=np.arange(6, dtype=np.int32), targets=np.arange(6, dtype=np.int32), histories=histories)
        for removed in (True, False):
            own = [np.unique(histories.of(row)) if removed else np.empty(0, np.int32) for row in range(6)]
            queries = [Query(history=histories.of(row), exclude=own[row]) for row in range(6)]
            lists = rows(channel.recall(queries, NUM_ITEMS))
            expected = [
                1 + found.index(target) if target in found else 0 for found, target in zip(lists, range(6), strict=True)
            ]
            assert channel.ranks(cases, removed=removed).tolist() == expected
        best = channel.recall([Query(history=histories.of(0))], 3)
        np.testing.assert_allclose(best.scores[0], scores[0][best.items[0]], rtol=1e-5)


class TestSasrec(Network):
    kind = SasrecChannel


class TestHstu(Network):
    kind = HstuChannel


class TestTwoTower(Network):
    kind = TwoTowerChannel
    depth = 1


def test_equal_scores_go_to_the_more_popular_then_to_the_lower_index() -> None:
    histories = Histories.from_lists([[0, 5], [0, 4], [0, 4]])
    channel = SasrecChannel.fit(histories, 7, replace(KINDS[SasrecChannel], train=replace(TRAIN, epochs=1)))
    with torch.no_grad():
        channel.module.items.weight.zero_()  # type: ignore[attr-defined]
    channel.refresh()
    assert rows(channel.recall([ask(0), ask(0, exclude=(4,))], 7)) == [[0, 4, 5, 1, 2, 3, 6], [0, 5, 1, 2, 3, 6]]
    channel._vectors[6, :] = torch.tensor(1.0)
    channel._vectors[5, :] = -channel._vectors[6]
    first, _ = (found := rows(channel.recall([ask(0)], 7))[0])[0], found[-1]
    assert {first, found[-1]} == {5, 6}
    assert found[1:-1] == [0, 4, 1, 2, 3]


def test_only_the_window_is_read() -> None:
    channel = SasrecChannel.fit(checkerboard(), NUM_ITEMS, KINDS[SasrecChannel])
    long = [0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4]
    np.testing.assert_array_equal(
        channel.recall([ask(*long)], 5).scores, channel.recall([ask(1, 3, *long[-8:])], 5).scores
    )


def test_validation_is_the_gain_of_the_lists_and_chooses_the_weights() -> None:
    split = leave_one_out(checkerboard(48))
    validation = Validation(split.valid, cutoff=3)
    seen: list[float] = []

    def validate(channel: SasrecChannel) -> float:
        seen.append(validation(channel))
        return seen[-1]

    config = replace(KINDS[SasrecChannel], train=replace(TRAIN, epochs=12, eval_every=2))
    channel = SasrecChannel.fit(split.train, NUM_ITEMS, config, validate=validate)
    assert channel.result is not None
    assert channel.result.best == max(seen) == validation(channel) > seen[0]
    queries = [ask(*split.valid.histories.of(row), exclude=split.valid.histories.of(row)) for row in range(48)]
    hits = channel.recall(queries, 3).items == split.valid.targets[:, None]
    assert validation(channel) == pytest.approx((hits / np.log2(2 + np.arange(3))).sum() / 48)
    assert len(Validation(split.valid, sample=10).cases) == 10
    with pytest.raises(AssertionError, match="test cases"):
        Validation(split.test)


def test_time_gaps_are_read_where_there_are_times() -> None:
    """After a pause everybody goes back to item 0; without one, on to the next."""
    rng = np.random.default_rng(0)
    items, times = [], []
    for _ in range(80):
        row, clock = [int(rng.integers(1, 8))], [0]
        for _ in range(7):
            pause = bool(rng.random() < 0.5)
            row += [0 if len(clock) > 1 and clock[-1] - clock[-2] > 1000 else int(row[-1] % 7 + 1)]
            clock += [clock[-1] + (5000 if pause else 1)]
        items.append(row)
        times.append(clock)
    histories = Histories.from_lists(items, times)
    config = replace(KINDS[HstuChannel], train=replace(TRAIN, epochs=20))
    channel = HstuChannel.fit(histories, 8, config)
    assert channel.config.timed
    history = np.array([2, 3], np.int32)
    pause, none = (Query(history=history, times=np.array([0, gap])) for gap in (5000, 1))
    assert rows(channel.recall([pause, none], 1)) == [[0], [4]]
    unknown, moment = Query(history=history), Query(history=history, times=np.array([9, 9]))
    assert rows(channel.recall([unknown], 8)) == rows(channel.recall([moment], 8))
    assert not HstuChannel.fit(histories, 8, replace(config, timed=False)).timed


def test_profiles_and_text_help_where_behaviour_says_nothing(tmp_path: Path) -> None:
    """The next item depends on the country; item 9 was never seen, but its text is item 3's."""
    rng = np.random.default_rng(0)
    countries = ["north" if user % 2 else "south" for user in range(80)]
    paths = [[0, 1 + 2 * (user % 2), 2 + 2 * (user % 2)] for user in range(80)]
    histories = Histories.from_lists(paths)
    vectors = rng.normal(size=(10, 6)).astype(np.float32)
    vectors[9] = vectors[3]
    channels = [
        TwoTowerChannel.fit(
            histories, 10, replace(KINDS[TwoTowerChannel], train=replace(KINDS[TwoTowerChannel].train, seed=seed)),
            vectors=vectors, profile_of=lambda user: {"country": countries[user], "name": f"n{user}"},
        )
        for seed in range(4)
    ]  # fmt: skip
    channel = channels[0]
    assert set(channel.words) == {"country=north", "country=south"}
    start = np.array([0], np.int32)
    north, south = (Query(history=start, profile={"country": name}) for name in ("north", "south"))
    unknown = Query(history=start, profile={"country": "east", "age": "7"})
    found = channel.recall([north, south, unknown], 10)
    assert found.items[:2, 0].tolist() == [3, 1]
    # Among the five that were never seen; where text said nothing, the mean place would be 2.
    unseen = [[item for item in rows(one.recall([north], 10))[0] if item >= 5] for one in channels]
    assert np.mean([places.index(9) for places in unseen]) < 1
    save_file(channel.state(), tmp_path / "state")
    again = TwoTowerChannel.from_state(load_file(tmp_path / "state"), channel.config)
    np.testing.assert_array_equal(again.recall([north, south, unknown], 10).scores, found.scores)
    with pytest.raises(DataError, match="text vectors"):
        TwoTowerChannel.fit(histories, 10, KINDS[TwoTowerChannel], vectors=vectors[:4])


@pytest.mark.parametrize("wrong", [{"width": 0}, {"width": 5, "heads": 2}, {"dropout": 1.0}, {"blocks": 0}])
def test_senseless_networks_are_refused(wrong: dict[str, Any]) -> None:
    for kind in (SasrecConfig, HstuConfig):
        with pytest.raises(ConfigError):
            kind(**wrong)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"negatives": -1}, {"profile_min_users": 0}])
def test_senseless_towers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TwoTowerConfig(**wrong)
