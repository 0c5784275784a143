"""Lists by dense product: what the sparse product and the CPU say, ties and exclusions included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.catalog.histories import Histories
from genrecall.recall import on_device as module
from genrecall.recall.channel import Query
from genrecall.recall.dense import DenseChannel, DenseConfig
from genrecall.recall.item_cf import ItemCfChannel
from genrecall.recall.lexical import LexicalChannel
from genrecall.recall.on_device import ByProduct, OnDevice, on_device
from genrecall.recall.popularity import PopularityChannel
from genrecall.recall.transition import TransitionChannel, TransitionConfig

ITEMS = 60


def _channels() -> list[ByProduct]:
    rng = np.random.default_rng(3)
    histories = Histories.from_lists([rng.integers(0, ITEMS, rng.integers(2, 9)).tolist() for _ in range(80)])
    counts = histories.item_counts(ITEMS).astype(np.float64)
    words = ["red", "blue", "soap", "brush", "cream", "nail", "oil", "kit"]
    texts = [" ".join(rng.choice(words, 3)) for _ in range(ITEMS)]
    vectors = rng.normal(size=(ITEMS, 16)).astype(np.float32)
    flat = TransitionConfig(window=3, distance="flat", source_damping=0.0, decay=1.0)
    return [
        ItemCfChannel.fit(histories, ITEMS),
        # Whole counts and no decay: nearly all scores have equals.
        TransitionChannel.fit(histories, ITEMS, flat),
        LexicalChannel.fit(texts, counts),
        DenseChannel.fit(vectors, counts, DenseConfig()),
    ]


def _queries(count: int) -> list[Query]:
    rng = np.random.default_rng(5)
    asked = [Query()]
    for _ in range(count - 1):
        history = rng.integers(0, ITEMS + 2, rng.integers(0, 6)).astype(np.int32)  # some that nobody knows
        exclude = rng.permutation(ITEMS)[: rng.integers(0, ITEMS)].astype(np.int32)
        asked.append(Query(history=history, exclude=exclude))
    return asked


def _require_same_lists(channel: ByProduct, device: str) -> None:
    asked = _queries(70)
    want = channel.recall(asked, 25)  # type: ignore[attr-defined]
    got = OnDevice(channel, torch.device(device)).recall(asked, 25)
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-5, atol=1e-6)
    swapped = got.items != want.items
    # Only where rounding moved one of two scores that are equal but for it.
    finite = np.where(np.isfinite(want.scores), want.scores, 1e9)
    apart = np.abs(np.diff(finite, axis=1, prepend=1e9))
    near = np.minimum(apart, np.abs(np.diff(finite, axis=1, append=1e9))) < 1e-5
    assert not (swapped & ~near).any()
    assert swapped.mean() < 0.02


@pytest.mark.parametrize("channel", _channels(), ids=lambda channel: channel.name)
def test_lists_are_those_of_the_sparse_product(channel: ByProduct) -> None:
    _require_same_lists(channel, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("channel", _channels(), ids=lambda channel: channel.name)
def test_lists_on_a_gpu_are_those_of_the_cpu(channel: ByProduct) -> None:
    _require_same_lists(channel, "cuda")


@pytest.mark.parametrize("channel", _channels(), ids=lambda channel: channel.name)
def test_a_batch_answers_as_its_rows_alone(channel: ByProduct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCORES", 16 * ITEMS)
    own = OnDevice(channel, torch.device("cpu"))
    asked = _queries(40)
    together = own.recall(asked, 10)
    for row in (0, 7, 16, 39):
        alone = own.recall(asked[row : row + 1], 10)
        np.testing.assert_array_equal(alone.items[0], together.items[row])
        np.testing.assert_array_equal(alone.scores[0], together.scores[row])


def test_no_query_and_lists_longer_than_the_catalog() -> None:
    own = OnDevice(_channels()[0], torch.device("cpu"))
    assert own.recall([], 5).items.shape == (0, 5)
    found = own.recall([Query(history=np.array([1], np.int32))], ITEMS + 3)
    assert (found.items[0] >= 0).sum() == ITEMS
    assert np.isneginf(found.scores[0, ITEMS:]).all()


def test_what_is_no_product_or_not_for_a_gpu_stays_itself() -> None:
    popular = PopularityChannel.fit(Histories.from_lists([[0, 1]]), ITEMS)
    assert not isinstance(popular, ByProduct)
    for channel in (popular, _channels()[0]):
        assert on_device(channel, "cpu") is channel  # type: ignore[arg-type]
