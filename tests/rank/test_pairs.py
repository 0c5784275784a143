"""What a device computes of requests and candidates together, against the same of ``Features``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from genrecall.rank.inputs import ItemSide, inputs_of
from genrecall.rank.model import NetworkConfig
from genrecall.rank.pairs import PairSide
from genrecall.rank.schema import Column, Crossed, Schema
from tests.rank import worlds
from tests.rank.test_model import ranker

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("seed", range(4))
def test_rows_and_numbers_are_those_of_the_features(kind: str, seed: int) -> None:
    device, features, asked = torch.device(kind), worlds.features(), worlds.asked(7, seed)
    assert set(features.halves) == {"age_price", "last_item"}  # an item may have several colours
    plain = ItemSide.of(features, worlds.vectors(), CPU)
    assert plain.pairs is None
    side = replace(ItemSide.of(features, worlds.vectors(), device), pairs=PairSide.of(features, device))
    one, other = inputs_of(features, asked, plain, CPU), inputs_of(features, asked, side, device)
    assert one.bags.keys() == other.bags.keys()
    for name, (rows, begins) in one.bags.items():
        found, places = other.bags[name]
        assert torch.equal(found.cpu(), rows), name
        assert (begins is None) == (places is None)
        assert places is None or torch.equal(places.cpu(), begins), name
    for name, (rows, there) in one.past.items():
        assert all(torch.equal(a.cpu(), b) for a, b in zip(other.past[name], (rows, there), strict=True)), name
    # Rows and sums are equal bit by bit; the logarithm of a sum may differ in the last bit.
    np.testing.assert_array_max_ulp(other.told.cpu().numpy(), one.told.numpy(), maxulp=1)
    unknown = inputs_of(features, asked, side, device, counted=False).told[:, len(worlds.SCHEMA.evidence) :]
    assert torch.isnan(unknown).all()


def test_an_order_that_no_word_stands_for_is_left_to_the_features() -> None:
    names = ("user.id", "item.id", "user.country")
    orders = {"a": names[:2], "b": names[1::-1], "c": (names[0], names[2], names[1]), "d": names, "e": names[::2]}
    schema = Schema(
        columns=[Column(name=name) for name in names],
        features=[Crossed(name=name, of=parts, buckets=50) for name, parts in orders.items()],
    )
    features, asked = worlds.features(schema), worlds.asked(9)
    assert set(features.halves) == {"a", "b", "c"}
    plain = ItemSide.of(features, None, CPU)
    side = replace(plain, pairs=PairSide.of(features, CPU))
    one, other = inputs_of(features, asked, plain, CPU), inputs_of(features, asked, side, CPU)
    for name, (rows, _) in one.bags.items():
        assert torch.equal(other.bags[name][0], rows), name


@pytest.mark.gpu
def test_a_ranker_on_a_gpu_answers_as_on_a_cpu(tmp_path) -> None:
    found = ranker(NetworkConfig(joint=3))
    found.save(tmp_path)
    near, far = (type(found).load(tmp_path, device=kind) for kind in ("cuda", "cpu"))
    for seed in range(4):
        asked = worlds.asked(6, seed)
        np.testing.assert_allclose(near.score(asked).logits, far.score(asked).logits, rtol=1e-4, atol=1e-4)
