"""SparseRank and the network in TensorFlow give the ranker's own logits; the hash is the one that was agreed on."""

import itertools
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.tf

ITEMS, REQUESTS, K = 9, 5, 7
TEXTS = ["", "a", "b, c", "c", " d ,a,,", "Zoë", "b"]
NUMBERS = ["", "1", "-2.5e1", "3.", "nan", "1e", " 2", "+7"]


def schema():
    from genrecall.rank.schema import Affinity, Behaviour, Bucketed, Column, Crossed, Hashed, Logged, Schema, Vocabulary

    return Schema(
        columns=[
            Column(name="user.id"), Column(name="user.sex"), Column(name="user.tags", split=","),
            Column(name="user.age", kind="number"), Column(name="item.id"), Column(name="item.brand"),
            Column(name="item.tags", split=","), Column(name="item.price", kind="number"),
            Column(name="item.count", kind="number"), Column(name="history.last"),
            Column(name="history.length", kind="number"),
        ],
        features=[
            Hashed(name="user", of="user.id", buckets=11, width=3),
            Vocabulary(name="sex", of="user.sex", size=3, width=2),
            Hashed(name="item", of="item.id", buckets=50, width=4),
            Hashed(name="tags", of="item.tags", buckets=20, width=4),
            Bucketed(name="age", of="user.age", edges=[-3.0, 0.5, 3.0], width=2),
            Bucketed(name="price", of="item.price", edges=[1.0, 2.0], width=2),
            Bucketed(name="length", of="history.length", edges=[1.0, 3.0], width=2),
            Vocabulary(name="brand", of="item.brand", size=2, width=3),
            Crossed(name="sex x tags", of=["user.tags", "item.tags"], buckets=30, width=2),
            Crossed(name="age x brand", of=["age", "item.brand", "price"], buckets=30, width=2),
            Crossed(name="last x item", of=["history.last", "item.id"], buckets=40, width=2),
            Behaviour(name="read", like="item", last=4),
            Behaviour(name="read tags", like="tags", last=3),
        ],
        numbers=[
            Logged(name="many", of="item.count"), Logged(name="costs", of="item.price"),
            Affinity(name="goes", of="beside", last=3, decay=0.5, floor=0.1),
            Affinity(name="goes next", of="beside", last=1, decay=1.0, floor=0.1),
        ],
        evidence=["sid_score", "near.generative", "fusion"],
        state=6,
        vectors=5,
    )  # fmt: skip


def ranker(directory: Path, pooling: str, cross: int, deep: tuple[int, ...]):
    """Random weights; written and read as every ranker is."""
    import torch

    from genrecall.rank.affinity import Relation
    from genrecall.rank.columns import Columns, Ragged, codes_of, pieces
    from genrecall.rank.embedding import Tables
    from genrecall.rank.features import Features
    from genrecall.rank.model import NetworkConfig, RankNetwork
    from genrecall.rank.score import Ranker

    rng, told = np.random.default_rng(0), schema()
    lists = {
        "item.id": [[f"i{item}"] for item in range(ITEMS)],
        "item.brand": [pieces(TEXTS[item % len(TEXTS)], None) for item in range(ITEMS)],
        "item.tags": [pieces(TEXTS[(3 * item) % len(TEXTS)], ",") for item in range(ITEMS)],
    }
    texts = {
        name: Ragged.of([codes_of(values) if values else np.empty(0, np.uint64) for values in rows], np.uint64)
        for name, rows in lists.items()
    }
    numbers = {
        "item.price": np.array([np.nan, 0.5, 1, 1.5, 2, 9, np.inf, -1, 2.5]), "item.count": np.arange(9, dtype=float)
    }  # fmt: skip
    vocabularies = {"sex": codes_of(["b, c", "a", "Zoë"]), "brand": codes_of(["c", "a"])}
    beside = Ragged.of([rng.permutation(ITEMS)[: item % 4] for item in range(ITEMS)])
    relation = Relation(items=beside, values=rng.random(len(beside.values)).astype(np.float32))
    features = Features(told, Columns(texts=texts, numbers=numbers), vocabularies, {"beside": relation})
    torch.manual_seed(1)
    config = NetworkConfig(pooling=pooling, cross_layers=cross, cross_rank=3, attention=5, deep=deep, joint=4)
    network = RankNetwork(told, config)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("spread") else torch.randn_like(tensor) * 0.4)
    vectors = rng.normal(size=(ITEMS, 5)).astype(np.float32)
    made = Ranker(features, vocabularies, vectors, network, Tables.fresh(told, 3))
    directory.mkdir()
    made.save(directory)
    return Ranker.load(directory, device="cpu")


@pytest.mark.parametrize(
    ("pooling", "cross", "deep"), [("attention", 2, (6, 4)), ("mean", 1, ()), ("attention", 0, (5,))]
)
def test_logits_are_the_rankers_own(tmp_path: Path, pooling: str, cross: int, deep: tuple[int, ...]):
    pytest.importorskip("genrecall.rank.score")
    from genrecall.graph.rank import Ranking, tf
    from genrecall.rank.columns import Asked, Ragged

    wanted = ranker(tmp_path / "ranker", pooling, cross, deep)
    rng = np.random.default_rng(2)
    histories = [rng.integers(0, ITEMS, size) for size in (0, 1, 3, 8, 12)]
    candidates = np.stack([rng.permutation(ITEMS)[:K] for _ in range(REQUESTS)])
    users = ["u1", "", "Zoë", "u2", "u1"]
    columns = {
        "sex": [TEXTS[n % len(TEXTS)] for n in range(REQUESTS)],
        "tags": [TEXTS[(2 * n) % len(TEXTS)] for n in range(REQUESTS)],
        "age": [NUMBERS[n % len(NUMBERS)] for n in range(REQUESTS)],
    }
    for ages in itertools.batched(NUMBERS, REQUESTS) if hasattr(itertools, "batched") else (NUMBERS[:5], NUMBERS[3:]):
        columns["age"] = (list(ages) + [""] * REQUESTS)[:REQUESTS]
        evidence = rng.normal(size=(3, REQUESTS, K)).astype(np.float32)
        evidence[0, 1, 2] = np.nan
        state = rng.normal(size=(REQUESTS, 6)).astype(np.float32)
        asked = Asked(
            users=[user or None for user in users],
            profiles=[{name: values[row] for name, values in columns.items()} for row in range(REQUESTS)],
            histories=Ragged.of(histories),
            candidates=Ragged.of(list(candidates)),
            evidence=evidence.transpose(1, 2, 0).reshape(-1, 3),
            state=state,
        )
        expected = wanted.score(asked).logits.reshape(REQUESTS, K)
        ranking = Ranking.open(tmp_path / "ranker")
        padded = np.concatenate([candidates, np.full((REQUESTS, 1), -1)], 1)
        wide = np.concatenate([evidence, np.full((3, REQUESTS, 1), np.nan, np.float32)], 2)
        found = ranking.logits(
            tf.constant(padded, tf.int32),
            tf.ragged.constant([[-1, *history.tolist()] for history in histories], dtype=tf.int32),
            users=tf.constant(users),
            profile={name: tf.constant(values) for name, values in columns.items()},
            evidence=dict(zip(wanted.schema.evidence, map(tf.constant, wide), strict=True)),
            state=tf.constant(state),
        ).numpy()
        assert (found[:, K] == -np.inf).all()
        np.testing.assert_array_less(np.abs(found[:, :K] - expected), 1e-4 * (1 + np.abs(expected)))


def test_the_standard_graph_ranks_what_it_recalled(run: Path, engine, pieces, tmp_path: Path):
    pytest.importorskip("genrecall.rank.score")
    import torch

    from genrecall import Recommender
    from genrecall.graph.build import GraphConfig, build
    from genrecall.graph.rank import tf
    from genrecall.graph.saved import load
    from genrecall.rank.affinity import Relation
    from genrecall.rank.columns import Asked, Ragged, item_columns
    from genrecall.rank.embedding import Tables
    from genrecall.rank.features import Features
    from genrecall.rank.model import NetworkConfig, RankNetwork
    from genrecall.rank.schema import Affinity, Behaviour, Column, Crossed, Hashed, Logged, Schema
    from genrecall.rank.score import Ranker

    shop = Recommender.load(run / "bundle", device="cpu")
    told = Schema(
        columns=[Column(name="user.sex"), Column(name="item.id"), Column(name="item.count", kind="number")],
        features=[
            Hashed(name="item", of="item.id", buckets=64, width=4),
            Crossed(name="both", of=["user.sex", "item.id"], buckets=99, width=4),
            Behaviour(name="read", like="item", last=5),
        ],
        numbers=[
            Logged(name="many", of="item.count"), Affinity(name="goes", of="beside", last=4, decay=0.5, floor=0.1)
        ],
        evidence=["sid_score", "near.generative"],
    )  # fmt: skip
    many = np.arange(len(shop.items))
    beside = Relation(items=Ragged.single(many[::-1].astype(np.int32)), values=np.ones(len(many), np.float32))
    features = Features(told, item_columns(shop.items, told, many), {}, {"beside": beside})
    torch.manual_seed(0)
    network = RankNetwork(told, NetworkConfig(deep=(5,)))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    ranker = Ranker(features, {}, None, network, Tables.fresh(told, 1))
    (tmp_path / "ranker").mkdir()
    ranker.save(tmp_path / "ranker")
    config = GraphConfig(engines=[str(engine.socket)], deadline_ms=20_000.0, k=6, candidates=15)
    graph = load(build(run / "bundle", tmp_path / "graph", config, ranker=tmp_path / "ranker").path)
    assert "profile_sex" in graph.inputs
    given = {name: tf.constant(v.tolist(), graph.inputs[name].dtype, v.shape) for name, v in graph.defaults.items()}
    given["profile_sex"] = tf.constant(["f"])
    history = shop.items.ids[:3]
    found = graph.run(history=tf.constant([history]), **given)

    items = pieces.items_of(tf.constant([history]))
    recalled = pieces.recall(pieces.prompts(items), k=15, exclude=items, deadline_ms=20_000.0)
    candidates = recalled.items.numpy()[0]
    candidates = candidates[candidates >= 0]
    near = 1 / (np.arange(len(candidates), dtype=np.float32) + 6)
    evidence = np.stack([recalled.scores.numpy()[0][: len(candidates)], near], 1).astype(np.float32)
    logits = ranker.score(
        Asked(
            users=[None],
            profiles=[{"sex": "f"}],
            histories=Ragged.of([items.values.numpy()]),
            candidates=Ragged.of([candidates]),
            evidence=evidence,
        )
    ).logits
    best = np.argsort(-logits, kind="stable")[:6]
    assert [cell.decode() for cell in found["item_id"].numpy()[0]] == [shop.items.ids[i] for i in candidates[best]]
    np.testing.assert_allclose(found["score"].numpy()[0], logits[best], atol=1e-4, rtol=1e-4)


def test_the_hash_is_the_documented_one():
    from genrecall.graph.sparse import code_of

    assert (code_of(""), code_of("genrecall")) == (0xF52A15E9A9B5E89B, 0x0EB2173B0E66D8DC)
