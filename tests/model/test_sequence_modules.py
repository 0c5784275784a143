import math

import numpy as np
import pytest
import torch
from torch import nn

from genrecall.model import item_softmax
from genrecall.model.hstu import Hstu, time_buckets
from genrecall.model.item_softmax import item_cross_entropy
from genrecall.model.sasrec import Sasrec
from genrecall.model.sequence import SequenceBatch
from genrecall.model.two_tower import PROFILE, TwoTower

ITEMS, WINDOW = 11, 6


def sasrec():
    return Sasrec(ITEMS, width=8, blocks=2, heads=2, window=WINDOW, dropout=0.0)


def hstu():
    return Hstu(ITEMS, width=8, blocks=2, heads=2, window=WINDOW, dropout=0.0, timed=True)


def two_tower():
    return TwoTower(
        torch.arange(1.0, ITEMS + 1), width=8, window=WINDOW, profile_values=3, text=torch.randn(ITEMS, 5),
        dropout=0.0, temperature=0.1, negatives=0,
    )  # fmt: skip


def batch(width=WINDOW, rows=4, seed=0):
    rng = np.random.default_rng(seed)
    items = torch.from_numpy(rng.integers(0, ITEMS, (rows, width + 1)))
    lengths = torch.from_numpy(rng.integers(1, width + 1, rows))
    real = torch.arange(width) < lengths[:, None]
    return SequenceBatch(
        items=torch.where(real, items[:, :-1], 0),
        lengths=lengths,
        targets=torch.where(real, items[:, 1:], -1),
        times=torch.from_numpy(np.cumsum(rng.integers(1, 10**6, (rows, width)), 1)),
        extra={PROFILE: torch.from_numpy(rng.integers(0, 4, (rows, 2)))},
    )


def wider(b, by=2):
    """The same rows with more padding, and a row of nothing."""

    def pad(t, value, rows=1):
        t = nn.functional.pad(t, (0, by), value=value)
        return torch.cat([t, t.new_full((1, t.shape[1]), value)])

    return SequenceBatch(
        items=pad(b.items, 0), lengths=torch.cat([b.lengths, b.lengths.new_zeros(1)]), targets=pad(b.targets, -1),
        times=pad(b.times, 0), extra={PROFILE: torch.cat([b.extra[PROFILE], b.extra[PROFILE][:1] * 0])},
    )  # fmt: skip


@pytest.mark.parametrize("make", [sasrec, hstu, two_tower])
def test_padding_and_what_comes_later_change_nothing(make):
    torch.manual_seed(0)
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    short = batch(4)
    torch.testing.assert_close(module.users(wider(short))[:4], module.users(short))
    for a, b in zip(module.loss(wider(short)), module.loss(short), strict=True):
        assert float(a.detach()) == pytest.approx(float(b.detach()), rel=1e-4)
    assert int(module.loss(short)[1]) == int(short.lengths.sum())
    cut = SequenceBatch(
        items=short.items[:, :2], lengths=short.lengths.clamp(max=2), targets=short.targets[:, :2],
        times=short.times[:, :2], extra=short.extra,
    )  # fmt: skip
    full = SequenceBatch(
        items=short.items, lengths=cut.lengths, targets=short.targets, times=short.times, extra=short.extra
    )
    torch.testing.assert_close(module.users(full), module.users(cut))


def test_the_loss_is_the_cross_entropy_in_any_number_of_pieces(monkeypatch):
    torch.manual_seed(0)
    hidden, table = torch.randn(9, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    targets = torch.tensor([3, -1, 0, 6, -1, 2, 2, 1, 5])
    expected = nn.functional.cross_entropy(hidden @ table.T, targets, ignore_index=-1, reduction="sum")
    by_hidden, by_table = torch.autograd.grad(expected / 7, (hidden, table))
    for piece in (7, 20, 10**6):
        monkeypatch.setitem(item_softmax._PIECE, "cpu", piece)
        loss, count = item_cross_entropy(hidden, table, targets)
        assert int(count) == 7
        torch.testing.assert_close(loss, expected)
        got = torch.autograd.grad(loss / 7, (hidden, table))
        torch.testing.assert_close(got[0], by_hidden)
        torch.testing.assert_close(got[1], by_table)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = item_cross_entropy(hidden, table, targets)
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    none, count = item_cross_entropy(hidden, table, torch.full((9,), -1))
    assert (float(none.detach()), int(count)) == (0.0, 0)


def test_an_untrained_model_knows_nothing():
    torch.manual_seed(0)
    for make in (sasrec, hstu):
        loss, count = make().loss(batch())
        assert float((loss / count).detach()) == pytest.approx(math.log(ITEMS), rel=0.1)


def test_time_buckets_grow_by_the_logarithm():
    times = torch.tensor([[0, 1, 3, 10**9]])
    assert time_buckets(times)[0, :, 0].tolist() == [0, 2, 4, 47]
    assert time_buckets(times)[0, 0].tolist() == [0, 0, 0, 0]


def test_towers_correct_for_what_is_often_on_offer():
    """By hand: one place, offered among two targets; each score is lessened by the log of how often it is expected."""
    torch.manual_seed(0)
    module = two_tower().eval()
    b = SequenceBatch(
        items=torch.tensor([[1, 2, 3], [4, 0, 0]]),
        lengths=torch.tensor([3, 1]),
        targets=torch.tensor([[5, 6, 5], [7, -1, -1]]),
        extra={PROFILE: torch.tensor([[1, 0], [2, 3]])},
    )
    loss, count = module.loss(b)
    users = module.hidden(b)
    every = module.catalogue()
    share = torch.arange(1.0, ITEMS + 1) / sum(range(1, ITEMS + 1))
    total = 0.0
    asked = [(0, 0, 5), (0, 1, 6), (0, 2, 5), (1, 0, 7)]
    for row, place, target in asked:
        scores = {}
        for other in asked:
            item = other[2]
            if item == target and other != (row, place, target):
                continue
            key = (item, other[:2])
            scores[key] = float((users[row, place] @ every[item]).detach()) / 0.1 - math.log(4 * float(share[item]))
        total += math.log(sum(map(math.exp, scores.values()))) - scores[(target, (row, place))]
    assert int(count) == 4
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_folding_text_into_items_changes_no_answer():
    torch.manual_seed(0)
    module = two_tower().eval()
    b = batch()
    before = module.users(b), module.catalogue()
    module.fold()
    assert "project.weight" not in module.state_dict()
    torch.testing.assert_close((module.users(b), module.catalogue()), before)


@pytest.mark.parametrize("make", [sasrec, hstu, two_tower])
def test_no_step_asks_the_host_what_is_in_a_batch(make):
    """Tensors without values: whatever would read one, or take its shape from one, cannot be captured as a graph."""
    module, real = make().to("meta"), batch()
    ghost = SequenceBatch(
        items=real.items.to("meta"),
        lengths=real.lengths.to("meta"),
        targets=real.targets.to("meta"),
        times=real.times.to("meta"),
        extra={name: tensor.to("meta") for name, tensor in real.extra.items()},
    )
    loss, count = module.train().loss(ghost)
    (loss / count.clamp(min=1)).backward()
    assert loss.shape == count.shape == ()
    assert loss.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in module.parameters())
