"""What a device computes of requests and candidates together, against the same of ``Features``."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genrecall.kernels import dispatch, rank_network
from genrecall.rank.columns import Asked
from genrecall.rank.fused import Fused
from genrecall.rank.inputs import ItemSide, inputs_of
from genrecall.rank.model import NetworkConfig
from genrecall.rank.pairs import PairSide
from genrecall.rank.schema import Behaviour, Column, Crossed, Schema
from genrecall.rank.score import Ranker
from tests.rank import worlds
from tests.rank.test_model import ranker

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CPU = torch.device("cpu")


@pytest.fixture(params=["reference", "interpreter"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which implementation runs on the CPU."""
    if request.param == "interpreter":
        if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
            pytest.skip("Triton's interpreter is not there")
        monkeypatch.setattr(dispatch, "choice", lambda kind: "triton")
    return str(request.param)


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


def fused(config: NetworkConfig, schema: Schema = worlds.SCHEMA, kept: int | None = None) -> tuple[Ranker, Fused]:
    """A ranker of random weights and its fused form on the CPU, the first ``kept`` of its tables packed."""
    found = ranker(config, schema)
    found.tables.pack(found.tables.names[:kept], CPU)
    side = replace(found._items, pairs=PairSide.of(found.features, CPU))
    return found, Fused(found.features, found.network, found.tables, side)


CONFIGS = [
    NetworkConfig(),
    NetworkConfig(pooling="mean", joint=3),
    NetworkConfig(cross_layers=0, deep=(20,), attention=5),
    NetworkConfig(deep=(), cross_rank=3, cross_layers=3),
    NetworkConfig(deep=(7, 40, 3)),
]


@pytest.mark.parametrize("kept", [None, 6])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_fused_network_is_the_network(kernels: str, config: NetworkConfig, kept: int | None) -> None:
    found, whole = fused(config, kept=kept)
    for seed in range(2):
        asked = worlds.asked(7, seed)
        rows = found.features.of(asked, whole=False)
        with torch.inference_mode():
            logits = found.network(inputs_of(found.features, asked, found._items, CPU), found.tables)
            both = whole(whole.send(rows))
            expected = torch.stack([logits, found.network.probability(logits)])
        np.testing.assert_allclose(both, expected, rtol=1e-4, atol=1e-4)


MISSING = {
    "state": {"state": 0}, "vectors": {"vectors": 0}, "both": {"state": 0, "vectors": 0},
    "numbers": {"numbers": (), "evidence": ()},
}  # fmt: skip


def without(missing: str) -> tuple[Schema, Asked]:
    """A schema that lacks a part, and requests for it."""
    schema, asked = replace(worlds.SCHEMA, **MISSING[missing]), worlds.asked(5)
    return schema, replace(asked, evidence=asked.evidence[:, : len(schema.evidence)])


@pytest.mark.parametrize("missing", MISSING)
def test_a_fused_network_without_some_of_its_parts(kernels: str, missing: str) -> None:
    schema, asked = without(missing)
    found, whole = fused(NetworkConfig(), schema)
    with torch.inference_mode():
        logits = found.network(inputs_of(found.features, asked, found._items, CPU), found.tables)
        both = whole(whole.send(found.features.of(asked, whole=False)))
    np.testing.assert_allclose(both[0], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["told", "state", "vector", "past", "request", "far"])
def test_features_may_have_any_name(name: str) -> None:
    features = [replace(f, name=name) if f.name == "colours" else f for f in worlds.SCHEMA.features]
    features = [replace(f, like=name) if isinstance(f, Behaviour) and f.like == "colours" else f for f in features]
    features = [replace(f, name=f"{name}s") if isinstance(f, Behaviour) and f.like == "item" else f for f in features]
    schema = replace(worlds.SCHEMA, features=features)
    found, whole = fused(NetworkConfig(), schema)
    asked = worlds.asked(7)
    with torch.inference_mode():
        logits = found.network(inputs_of(found.features, asked, found._items, CPU), found.tables)
        both = whole(whole.send(found.features.of(asked, whole=False)))
    np.testing.assert_allclose(both[0], logits, rtol=1e-4, atol=1e-4)


def test_what_is_too_large_for_a_kernel_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_network, "room", lambda tensor: 232_448)  # an H100's
    for config in CONFIGS:
        found, _ = fused(config)
        assert Fused.fits(found.network, found.tables)
    for config in (NetworkConfig(deep=(256, 128)), NetworkConfig(cross_rank=1024), NetworkConfig(attention=1024)):
        assert not Fused.fits(ranker(config).network, ranker(config).tables)


@pytest.mark.gpu
@pytest.mark.parametrize("room", [None, 600])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_ranker_on_a_gpu_answers_as_on_a_cpu(tmp_path: Path, config: NetworkConfig, room: int | None) -> None:
    ranker(config).save(tmp_path)
    near, far = Ranker.load(tmp_path, device="cuda", room=room), Ranker.load(tmp_path, device="cpu")
    assert bool(near.tables.hosted) == (room is not None)
    for seed in range(4):
        asked = worlds.asked(6, seed)
        one, other = near.score(asked), far.score(asked)
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("missing", MISSING)
def test_a_ranker_without_some_of_its_parts_on_a_gpu(tmp_path: Path, missing: str) -> None:
    schema, asked = without(missing)
    ranker(NetworkConfig(), schema).save(tmp_path)
    one, other = (Ranker.load(tmp_path, device=device).score(asked) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-4)
