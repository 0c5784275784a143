import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError, DataError
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.data import SequenceData, plan
from genrecall.train.sequence.feed import DeviceFeed, HostFeed

CPU = torch.device("cpu")


def numbered(lengths: list[int]) -> Histories:
    """Every event is an item of its own, so that an item says where it stood."""
    ends = np.cumsum([0, *lengths])
    return Histories.from_lists([list(range(a, b)) for a, b in itertools.pairwise(ends)])


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda rows: max(rows) > 1),
    window=st.integers(1, 9),
    short=st.sets(st.integers(1, 12), max_size=3),
    epoch=st.integers(0, 2),
)
def test_every_event_after_the_first_is_a_target_once(lengths, window, short, epoch):
    histories = numbered(lengths)
    config = SequenceConfig(window=window, lengths=tuple(sorted(short)), batch_tokens=24)
    events = np.arange(len(histories.items))
    data = SequenceData(
        histories=histories,
        beside_targets={"event": np.stack([events, -events], axis=1)},
        beside_users={"user": np.arange(len(lengths))},
        timed=True,
    )
    planned = plan(data, config, epoch)
    first = set(histories.offsets[:-1].tolist())
    for kind in (DeviceFeed, HostFeed):
        feed = kind(data, config, CPU)
        feed.begin(planned)
        seen = []
        for number in range(len(planned)):
            feed.load(number)
            shape = int(planned.shape[number])
            batch = feed.batch(shape)
            assert batch.items.shape == batch.targets.shape == config.shapes[shape]
            asked = batch.targets >= 0
            assert int(asked.sum()) == planned.targets(number)
            targets = batch.targets[asked]
            seen += targets.tolist()
            assert torch.equal(batch.items[asked], targets - 1)
            assert torch.equal(batch.times[asked], torch.from_numpy(histories.times)[targets - 1])
            assert torch.equal(batch.extra["event"][asked], torch.stack([targets, -targets], 1))
            users = batch.extra["user"][:, None].expand_as(asked)
            assert torch.equal(users[asked], torch.from_numpy(histories.rows)[targets].long())
            for row, length in zip(batch.items, batch.lengths.tolist(), strict=True):
                assert torch.equal(row[:length], torch.arange(length) + row[0])
                assert not row[length:].any()
        assert sorted(seen) == [event for event in range(len(events)) if event not in first]


def test_rows_stand_in_the_shortest_batch_that_holds_them_and_few_places_are_lost():
    histories = numbered(np.random.default_rng(0).integers(2, 40, 300).tolist())
    config = SequenceConfig(window=50, batch_tokens=128, lengths=(4, 8, 16, 32))
    planned = plan(SequenceData(histories=histories), config, 0)
    partial = 0
    for rows, (size, length) in zip(planned.rows, config.shapes, strict=True):
        assert rows.shape[1:] == (size, 4)
        assert (rows[..., 1] - rows[..., 0] - 1).max(initial=0) <= length
        partial += int(((rows[..., 1] == 0).any(1)).sum())
    assert partial <= 1


def test_epochs_differ_and_seeds_repeat():
    data = SequenceData(histories=numbered([30, 30, 30]))
    config = SequenceConfig(window=8, batch_tokens=8)

    def rows(epoch, **changed):
        planned = plan(data, SequenceConfig(**{**vars(config), **changed}), epoch)
        return [r.tolist() for r in planned.rows], planned.place.tolist()

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)
    assert rows(0) != rows(0, seed=1)


def test_ties_are_shuffled_anew_each_epoch_within_their_time_only():
    histories = Histories.from_lists([[0, 1, 2, 3, 4, 5]], [[0, 0, 0, 7, 7, 7]])
    config = SequenceConfig(window=8, batch_tokens=8, reshuffle_ties=True)
    data = SequenceData(histories=histories)
    orders = [plan(data, config, epoch).items.tolist() for epoch in range(6)]
    assert len({tuple(order) for order in orders}) > 1
    assert all(set(order[:3]) == {0, 1, 2} for order in orders)
    for kind in (DeviceFeed, HostFeed):
        feed = kind(data, config, CPU)
        for epoch in (0, 3):
            planned = plan(data, config, epoch)
            feed.begin(planned)
            feed.load(0)
            batch = feed.batch(int(planned.shape[0]))
            assert batch.items[0, :5].tolist() == orders[epoch][:5]
            assert batch.targets[0, :5].tolist() == orders[epoch][1:]
    with pytest.raises(ConfigError, match="teacher"):
        plan(SequenceData(histories=histories, beside_targets={"soft": np.zeros((6, 2))}), config, 0)


def test_nothing_to_learn_and_senseless_settings_are_refused():
    with pytest.raises(DataError, match="no sequence"):
        SequenceData(histories=Histories.from_lists([[1], []]))
    for wrong in ({"epochs": 0}, {"batch_tokens": 10}, {"lengths": (8, 4)}, {"lengths": (0, 4)}, {"optimizer": "sgd"},
                  {"warmup": 1.0}, {"precision": "int3"}, {"window": 0}):  # fmt: skip
        with pytest.raises(ConfigError, match="out of range"):
            SequenceConfig(**wrong)


def test_a_memory_map_is_read_in_place(tmp_path):
    histories = numbered([5, 6, 7])
    np.save(tmp_path / "items.npy", histories.items)
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    data = SequenceData(
        histories=Histories(offsets=histories.offsets, items=mapped, times=histories.times, timed=False)
    )
    config = SequenceConfig(window=8, batch_tokens=24, lengths=())
    for kind in (DeviceFeed, HostFeed):
        feed = kind(data, config, CPU)
        feed.begin(plan(data, config, 0))
        feed.load(0)
        assert int((feed.batch(0).targets >= 0).sum()) == 15


def test_batches_are_gathered_without_asking_the_host():
    """On tensors without values: what a CUDA graph may hold."""
    data = SequenceData(histories=numbered([5, 6, 7]), beside_targets={"soft": np.zeros((18, 2))}, timed=True)
    config = SequenceConfig(window=8, batch_tokens=24, lengths=())
    feed = DeviceFeed(data, config, torch.device("meta"))
    feed.begin(plan(data, config, 0))
    feed.load(0)
    batch = feed.batch(0)
    assert (batch.items.shape, batch.targets.shape, batch.lengths.shape) == ((3, 8), (3, 8), (3,))
    assert batch.extra["soft"].shape == (3, 8, 2)
