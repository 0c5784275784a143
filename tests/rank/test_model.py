"""The network against its documented formula in numpy, and what is stored of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from genrecall.errors import ArtifactError, ConfigError
from genrecall.rank.columns import Asked
from genrecall.rank.embedding import Tables
from genrecall.rank.model import NetworkConfig, RankNetwork
from genrecall.rank.schema import Behaviour, Schema
from genrecall.rank.score import Ranker
from tests.rank import worlds

SCHEMA = worlds.SCHEMA


def ranker(config: NetworkConfig, schema: Schema = SCHEMA, seed: int = 0) -> Ranker:
    """With opinions in every weight."""
    torch.manual_seed(seed)
    network = RankNetwork(schema, config)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.copy_(torch.randn(tensor.shape) * 0.3 + (1.0 if tensor.ndim == 1 else 0.0))
    features = worlds.features(schema)
    vocabularies = {"item": features.items.texts["item.id"].values}
    return Ranker(features, vocabularies, worlds.vectors(), network, Tables.fresh(schema, seed))


def by_formula(directory: Path, found: Ranker, asked: Asked) -> np.ndarray:
    """docs/concepts/ranking.md, candidate by candidate, from the files alone."""
    tables, weights = load_file(directory / "tables.safetensors"), load_file(directory / "network.safetensors")
    vectors = load_file(directory / "items.safetensors")["vectors"]
    config, schema = found.network.config, found.schema
    rows = found.features.of(asked)
    logits = []
    assert rows.state is not None
    for place, (request, item) in enumerate(zip(rows.owner, rows.items, strict=True)):
        pooled = {}
        for feature in schema.tabled:
            unit = place if schema.of_item(feature) else request
            bag = worlds.bag_of(found.features, rows, feature.name)
            pooled[feature.name] = tables[feature.name][bag.values[bag.offsets[unit] : bag.offsets[unit + 1]]].mean(0)
        parts = list(pooled.values())
        for feature in schema.behaviours:
            assert isinstance(feature, Behaviour)
            bag, query = rows.bags[feature.name], pooled[feature.like]
            keys = tables[feature.like][bag.values[bag.offsets[request] : bag.offsets[request + 1]]]
            name, chosen = f"attention.{feature.name}", []
            for key in keys:
                share = 1.0
                if config.pooling == "attention":
                    joined = np.concatenate([query, key, query * key, query - key])
                    hidden = np.maximum(weights[f"{name}.inner.weight"] @ joined + weights[f"{name}.inner.bias"], 0)
                    share = (weights[f"{name}.outer.weight"] @ hidden + weights[f"{name}.outer.bias"])[0]
                chosen.append(share * key)
            parts.append(np.mean(chosen, axis=0) if chosen else np.zeros_like(query))
        parts.append(np.nan_to_num((rows.told[place] - weights["told.mean"]) / weights["told.spread"]))
        state = np.nan_to_num((rows.state[request] - weights["state.mean"]) / weights["state.spread"])
        u = weights["state.weight"] @ state + weights["state.bias"]
        w = weights["vector.weight"] @ vectors[item]
        x = first = np.concatenate([*parts, u, w, u * w])
        for layer in range(config.cross_layers):
            up, down = weights[f"cross.{layer}.up"], weights[f"cross.{layer}.down"]
            x = first * (up @ (down @ x) + weights[f"cross.{layer}.bias"]) + x
        y = first
        for layer in range(len(config.deep)):
            y = np.maximum(weights[f"deep.{layer}.weight"] @ y + weights[f"deep.{layer}.bias"], 0)
        last = np.concatenate([x, y]) if config.deep else x
        logits.append((weights["head.weight"] @ last + weights["head.bias"])[0])
    return np.array(logits)


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(pooling="attention", cross_layers=0, deep=(5, 3), attention=4, joint=3),  # DIN
        NetworkConfig(pooling="mean", cross_layers=2, cross_rank=3, deep=(5,), joint=3),  # DCN-v2
        NetworkConfig(pooling="attention", cross_layers=1, cross_rank=2, deep=(), attention=4, joint=3),
    ],
)
def test_logits_are_those_of_the_documented_formula(config: NetworkConfig, tmp_path: Path) -> None:
    found, asked = ranker(config), worlds.asked(7, 4)
    found.save(tmp_path)
    expected = by_formula(tmp_path, found, asked)
    scored = found.score(asked)
    np.testing.assert_array_less(np.abs(scored.logits - expected), 1e-4 * (1 + np.abs(expected)))
    slope, shift = load_file(tmp_path / "network.safetensors")["calibration"]
    np.testing.assert_allclose(scored.probabilities, 1 / (1 + np.exp(-(slope * expected + shift))), atol=1e-4)


def test_what_is_stored_answers_as_before(tmp_path: Path) -> None:
    found, asked = ranker(NetworkConfig(joint=3)), worlds.asked(5)
    found.save(tmp_path)
    again = Ranker.load(tmp_path, device="cpu")
    np.testing.assert_array_equal(again.score(asked).logits, found.score(asked).logits)
    (tmp_path / "half").mkdir()
    found.save(tmp_path / "half", half=True)
    half = Ranker.load(tmp_path / "half", device="cpu")
    assert half.tables.of("item").dtype == torch.float16
    np.testing.assert_allclose(half.score(asked).logits, found.score(asked).logits, rtol=5e-2, atol=5e-2)


def test_dense_alone_and_sparse_alone(tmp_path: Path) -> None:
    asked = worlds.asked(5)
    dense = Schema(columns=(), features=(), evidence=SCHEMA.evidence, state=worlds.STATE, vectors=worlds.VECTORS)
    sparse = Schema(columns=SCHEMA.columns, features=SCHEMA.features)
    for place, (schema, told) in enumerate([(dense, asked), (sparse, without(asked))]):
        found = ranker(NetworkConfig(joint=3), schema)
        directory = tmp_path / str(place)
        directory.mkdir()
        found.save(directory)
        again = Ranker.load(directory, device="cpu")
        np.testing.assert_array_equal(again.score(told).logits, found.score(told).logits)


def without(asked: Asked) -> Asked:
    """No evidence."""
    return Asked(
        users=asked.users,
        profiles=asked.profiles,
        histories=asked.histories,
        candidates=asked.candidates,
        evidence=np.empty((len(asked.evidence), 0), np.float32),
    )


def test_other_inputs_and_formats_are_refused(tmp_path: Path) -> None:
    found = ranker(NetworkConfig(joint=3))
    with pytest.raises(ConfigError, match="other inputs"):
        found.score(without(worlds.asked(2)))
    with pytest.raises(ConfigError, match="shape"):
        NetworkConfig(cross_rank=0)
    found.save(tmp_path)
    file = tmp_path / "ranker.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(ArtifactError, match="another format"):
        Ranker.load(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_large_table_is_mapped_and_not_read(tmp_path: Path) -> None:
    rows, width = 20_000_000, 16  # 640 MB as float16; the file is a hole, so that none of it is on the disk
    header = json.dumps({"user": {"dtype": "F16", "shape": [rows, width], "data_offsets": [0, rows * width * 2]}})
    header += " " * (-len(header) % 8)
    file = tmp_path / "tables.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    os.truncate(file, 8 + len(header) + rows * width * 2)
    before = resident_mb()
    tables = Tables.load(file)
    asked = torch.from_numpy(np.random.default_rng(0).integers(rows, size=2000))
    tables.write({"user": (asked[:1000], torch.ones(1000, width))}, 1)
    pooled = tables.pool("user", asked, torch.arange(0, 2000, 2))
    assert pooled[:500].eq(1).all()
    assert pooled[500:].eq(0).all()
    assert resident_mb() - before < 200
    with file.open("rb") as stream:  # a change of this process alone: the file is intact
        stream.seek(8 + len(header) + int(asked[0]) * width * 2)
        assert stream.read(4) == b"\0\0\0\0"


def resident_mb() -> float:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
