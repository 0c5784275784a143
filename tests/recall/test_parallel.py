"""Parallel codes: exact scores against brute force, the loss by hand, and what every channel promises."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from genrecall.errors import ConfigError
from genrecall.model.parallel import ParallelHead, ParallelTrunk
from genrecall.model.sequence import SOFT_ITEMS, SOFT_WEIGHTS, SequenceBatch
from genrecall.model.trunk import TrunkConfig
from genrecall.recall.channel import Channel
from genrecall.recall.parallel import ParallelChannel, ParallelConfig
from genrecall.sid.space import SidSpace
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.soft import SoftTargets

from .contract import NUM_ITEMS, ChannelContract, ask, checkerboard

LEVELS, CODES = 6, 8
SIDS = np.random.default_rng(0).integers(0, CODES, (NUM_ITEMS, LEVELS)).astype(np.int32)
CONFIG = ParallelConfig(
    codes=CODES, width=32, layers=1, heads=2, dropout=0.1, item_dropout=0.0, temperature=0.1,
    train=SequenceConfig(window=8, lengths=(4,), batch_tokens=64, learning_rate=1e-2, epochs=30, device="cpu"),
)  # fmt: skip
_FITTED: dict[str, Any] = {}


class TestParallel(ChannelContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def fit(self) -> ParallelChannel:
        if not _FITTED:  # once for all tests: nothing in a channel changes when it answers
            _FITTED["channel"] = ParallelChannel.trained(checkerboard(), SIDS, CONFIG)
        return _FITTED["channel"]

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, ParallelChannel)
        save_file(channel.state(), self.directory / "state.safetensors")
        told = json.loads(json.dumps(asdict(channel.config)))
        return ParallelChannel.from_state(load_file(self.directory / "state.safetensors"), ParallelConfig(**told))

    def test_scores_are_the_sums_of_log_probabilities(self) -> None:
        channel = self.fit()
        histories = checkerboard(4)
        found = channel.scores(histories)
        for row in range(4):
            with torch.no_grad():
                states = channel.module.hidden(torch.from_numpy(histories.of(row).astype(np.int64))[None])
                log_p = channel.module.log_p(states[:, -1])[0].numpy()
            np.testing.assert_allclose(np.exp(log_p).sum(1), 1, rtol=1e-5)
            for item in range(NUM_ITEMS):
                expected = sum(float(log_p[level, SIDS[item, level]]) for level in range(LEVELS))
                assert found[row, item] == pytest.approx(expected, abs=1e-4)
        answer = channel.recall([ask(*histories.of(0).tolist())], NUM_ITEMS)
        np.testing.assert_allclose(answer.scores[0], found[0][answer.items[0]], atol=1e-5)
        assert channel.item_vectors().shape == (NUM_ITEMS, CONFIG.width)


def module(**more: Any) -> ParallelTrunk:
    config = TrunkConfig(width=16, layers=1, heads=2, window=4, dropout=0.0, item_dropout=0.0)
    return ParallelTrunk(config, SidSpace.uniform(LEVELS, CODES), SIDS, **more).eval()


def batch_of(**extra: torch.Tensor) -> SequenceBatch:
    return SequenceBatch(
        items=torch.tensor([[3, 1, 0]]), lengths=torch.tensor([2]), targets=torch.tensor([[-1, 5, -1]]), extra=extra
    )


def test_head_by_hand() -> None:
    head = ParallelHead(2, 1, 2, 0.5)
    with torch.no_grad():
        head.turns.weight.zero_()
        found = head(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.1]]))
    logits = np.array([0.6, 0.8]) / 0.5  # cosines: lengths do not matter
    np.testing.assert_allclose(found[0, 0], logits - np.log(np.exp(logits).sum()), rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("temperature", [0.05, None])
def test_loss_is_the_mean_of_the_codes_nats_and_mixes_a_teacher(tied: bool, temperature: float | None) -> None:
    model = module(tied=tied, temperature=temperature)
    with torch.no_grad():
        log_p = model.log_p(model.hidden(torch.tensor([[3, 1]]))[:, -1])[0]
        nats = [-float(log_p[torch.arange(LEVELS), torch.from_numpy(sid).long()].mean()) for sid in SIDS]
        found, count = model.loss(batch_of())
        assert int(count) == 1
        assert float(found) == pytest.approx(nats[5], rel=1e-4)
        beside = {
            SOFT_ITEMS: torch.tensor([[[0, 0], [7, 2], [0, 0]]]),
            SOFT_WEIGHTS: torch.tensor([[[0, 0], [0.5, 0.2], [0, 0]]]),
        }
        mixed = 0.3 * nats[5] + 0.5 * nats[7] + 0.2 * nats[2]
        assert float(model.loss(batch_of(**beside))[0]) == pytest.approx(mixed, rel=1e-4)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_teacher_teaches(device: str) -> None:
    histories = checkerboard()
    told = ((histories.items + 2) % NUM_ITEMS)[:, None].astype(np.int32)
    soft = SoftTargets(items=told, weights=np.full(told.shape, 0.9, np.float16))
    short = replace(CONFIG, train=replace(CONFIG.train, epochs=15, device=device))
    taught = ParallelChannel.trained(histories, SIDS, short, soft=soft)
    assert taught.recall([ask(0, 2, 4)], 1).items[0, 0] == 8  # what comes after 6, not 6


def test_levels_are_of_one_size() -> None:
    with pytest.raises(ConfigError):
        ParallelTrunk(TrunkConfig(width=16, heads=2), SidSpace((8, 8, 4)), SIDS[:, :3])
