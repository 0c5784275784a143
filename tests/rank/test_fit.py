"""Learning from lists on disk; deltas; metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genrecall.errors import ArtifactError, DataError
from genrecall.rank.begin import conditional_logit
from genrecall.rank.columns import Asked, Ragged
from genrecall.rank.delta import Delta, read_delta, table_shapes, write_delta
from genrecall.rank.features import Features, Rows
from genrecall.rank.fit import Data, FitConfig, fit_ranker, held_out
from genrecall.rank.lists import ListReader, Lists, ListWriter
from genrecall.rank.loss import platt
from genrecall.rank.metrics import auc, grouped_auc, log_loss, ndcg, places
from genrecall.rank.model import NetworkConfig
from genrecall.rank.sampling import thinned
from genrecall.rank.score import Ranker
from genrecall.rank.update import UpdateConfig, update_tables
from tests.rank import worlds
from tests.rank.test_model import ranker

SCHEMA = worlds.SCHEMA


def write(file: Path, requests: int, seed: int) -> ListReader:
    """Lists in which a user of a country takes the first candidate with that country's item number modulo 2."""
    rng = np.random.default_rng(seed)
    candidates = np.stack([rng.permutation(worlds.ITEMS)[:8] for _ in range(requests)])
    country = rng.integers(2, size=requests)
    fits = candidates % 2 == country[:, None]
    labels = np.zeros(candidates.shape, np.float32)
    labels[np.arange(requests), fits.argmax(1)] = 1
    labels[~fits.any(1)] = 0
    asked = Asked(
        users=[f"u{n % 17}" for n in range(requests)],
        profiles=[{"country": ("FR", "ES")[one]} for one in country],
        histories=Ragged.of([rng.integers(worlds.ITEMS, size=4) for _ in range(requests)]),
        candidates=Ragged.of(list(candidates)),
        evidence=rng.normal(size=(labels.size, 2)).astype(np.float32),
        state=(country[:, None] * 2 - 1 + rng.normal(size=(requests, worlds.STATE)) * 0.1).astype(np.float32),
    )
    with ListWriter(file, evidence=SCHEMA.evidence, profile=["country"], items="sha256:0") as writer:
        writer.write(Lists(asked=asked, labels=labels.ravel(), units=np.arange(requests)))
    return ListReader(file)


def test_a_ranker_learns_what_the_lists_say(tmp_path: Path) -> None:
    reader = write(tmp_path / "lists.parquet", 500, 0)
    features = worlds.features()
    data = Data(
        features=features,
        vocabularies={"item": features.items.texts["item.id"].values},
        vectors=worlds.vectors(),
        lists=reader,
        warm=reader,
    )
    rates = {"learning_rate": 1e-2, "table_rate": 2e-2, "warm_rate": 1e-2, "warm_table_rate": 2e-2}
    config = FitConfig(epochs=3, warm_epochs=1, device="cpu", dropout=0.0, **rates)
    found, report = fit_ranker(data, NetworkConfig(deep=(16,), joint=4), config)
    held = report["held out"]
    # Half of 8 candidates fit and one of these is taken, nobody can know which: at best AUC .79 and NDCG .64.
    assert held["auc"] > 0.72
    assert held["ndcg@10"] > 0.6
    base = -(1 / 8 * np.log(1 / 8) + 7 / 8 * np.log(7 / 8))
    assert held["logloss"] < base  # calibrated: better than always saying 1/8
    assert found.version == 0


def test_a_fit_begins_with_what_a_linear_model_can_say(tmp_path: Path) -> None:
    rng, requests = np.random.default_rng(0), 400
    x = rng.normal(size=(requests * 8, 2))
    owner = np.repeat(np.arange(requests), 8)
    chance = np.exp(x @ [1.5, -0.5]).reshape(-1, 8)
    taken = (np.cumsum(chance, 1) > rng.random((requests, 1)) * chance.sum(1, keepdims=True)).argmax(1)
    labels = (np.arange(8) == taken[:, None]).ravel().astype(np.float32)
    labels[:80] = 0  # requests that say nothing
    found = conditional_logit(x, labels, owner)
    np.testing.assert_allclose(found, [1.5, -0.5], atol=0.2)
    np.testing.assert_allclose(conditional_logit(x[80:], labels[80:], owner[80:] - 10), found, atol=1e-6)


def test_what_a_network_learns_comes_on_top_of_where_it_began() -> None:
    found, asked = ranker(NetworkConfig(joint=3)), worlds.asked(7)
    found.network.unlearn()
    assert asked.state is not None
    other = replace(asked, evidence=asked.evidence * 3 + 1, state=asked.state - 2)
    warm = found.score(asked).logits
    # Crosses of columns that a warm-up does not tell have no way to the logit.
    np.testing.assert_allclose(found.score(other).logits, warm, rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # nor does a warm-up teach crosses of what it leaves at 0
        for layer in found.network.cross:
            layer.up[found.network._told], layer.bias[found.network._told] = 0, 0
    weights = np.array([2.0, -3.0, 0.5, 1.0, -1.0, 0.0], np.float32)
    found.network.begin(torch.from_numpy(weights), 0.5)
    moments = {name: found.network.told.get_buffer(name).numpy() for name in ("mean", "spread")}
    known = np.nan_to_num((found.features.told(asked) - moments["mean"]) / moments["spread"])
    np.testing.assert_allclose(found.score(asked).logits, 0.5 * warm + known @ weights, rtol=1e-4, atol=1e-4)


def test_a_warm_up_is_told_no_counts_of_the_events_it_learns_from(tmp_path: Path) -> None:
    reader, features = write(tmp_path / "lists.parquet", 60, 0), worlds.features()
    told: list[np.ndarray] = []

    class Seen(Features):
        def of(self, asked: Asked, *, counted: bool = True, whole: bool = True) -> Rows:
            told.append((rows := super().of(asked, counted=counted, whole=whole)).told)
            return rows

    seen = Seen(SCHEMA, features.items, {"item": features.items.texts["item.id"].values}, features.relations)
    data = Data(features=seen, vocabularies={}, vectors=worlds.vectors(), lists=reader, warm=reader)
    fit_ranker(data, NetworkConfig(deep=(4,), joint=2), FitConfig(epochs=1, warm_epochs=1, device="cpu"))
    assert np.isnan(told[0][:, len(SCHEMA.evidence) :]).all()  # the warm-up comes first
    assert np.isfinite(told[-1][:, -1]).all()


def test_nothing_to_learn_from_is_told(tmp_path: Path) -> None:
    file = tmp_path / "lists.parquet"
    whole = worlds.asked(30)
    with ListWriter(file, evidence=SCHEMA.evidence, profile=[], items="x") as writer:
        writer.write(Lists(asked=whole, labels=np.zeros(len(whole.evidence), np.float32), units=np.arange(30)))
    features = worlds.features()
    data = Data(features=features, vocabularies={}, vectors=worlds.vectors(), lists=ListReader(file))
    with pytest.raises(DataError, match="nothing to learn"):
        fit_ranker(data, NetworkConfig(), FitConfig(device="cpu"))


def test_batches_hold_every_request_once_and_shuffle_alike(tmp_path: Path) -> None:
    reader = write(tmp_path / "lists.parquet", 1300, 1)
    for seed in (None, 3):
        units = np.concatenate([lists.units for lists in reader.batches(64, seed=seed)])
        assert sorted(units.tolist()) == list(range(1300))
    again = np.concatenate([lists.units for lists in reader.batches(64, seed=3)])
    assert again.tolist() == units.tolist() != sorted(units.tolist())


def test_held_out_units_are_the_same_ones_and_as_many_as_asked() -> None:
    config = FitConfig(holdout=0.3, seed=5)
    first = held_out(np.arange(20_000), config)
    assert abs(first.mean() - 0.3) < 0.02
    assert held_out(np.arange(20_000)[::-1], config)[::-1].tolist() == first.tolist()
    assert held_out(np.arange(20_000), FitConfig(holdout=0.3, seed=6)).tolist() != first.tolist()


def test_thinned_lists_keep_what_was_taken_and_the_nearest(tmp_path: Path) -> None:
    lists = next(write(tmp_path / "lists.parquet", 50, 2).batches(50))
    thin, raised = thinned(lists, np.arange(50), 4, np.random.default_rng(0))
    # Of 7 others 2 are the nearest, or 1 where a nearer one was taken; the rest of the 4 are drawn.
    assert set(np.round(raised, 4).tolist()) <= {0.0, *np.round(-np.log([2 / 5, 3 / 6]), 4).astype(np.float32).tolist()}
    assert raised.reshape(-1, 5)[thin.labels.reshape(-1, 5) > 0].tolist() == [0.0] * len(thin)
    assert np.allclose(np.exp(raised).reshape(-1, 5).sum(1), 8), "they stand for the whole list"
    lengths = thin.asked.candidates.lengths
    assert set(lengths.tolist()) == {5}
    assert np.add.reduceat(thin.labels, thin.asked.candidates.offsets[:-1]).tolist() == [1.0] * len(thin)
    whole = {int(unit): place for place, unit in enumerate(lists.units)}
    for place, unit in enumerate(thin.units.tolist()):
        own = thin.asked.candidates.values[5 * place : 5 * place + 5].tolist()
        before = lists.asked.candidates.values[8 * whole[unit] : 8 * whole[unit] + 8].tolist()
        taken = int(lists.labels[8 * whole[unit] : 8 * whole[unit] + 8].argmax())
        assert [item for item in before if item in own] == own  # recall's order
        assert before[taken] in own
        assert {before[0], before[1]} <= set(own) | {before[taken]}


def test_deltas_apply_in_order_or_not_at_all(tmp_path: Path) -> None:
    found, asked = ranker(NetworkConfig(joint=3)), worlds.asked(4)
    found.save(tmp_path)
    shapes = table_shapes(tmp_path / "tables.safetensors")
    assert shapes["item"] == (worlds.ITEMS + 1, 4)
    before = found.score(asked).logits
    values = np.ones((2, 4), np.float32)
    delta = Delta(ranker="sha256:r", version=1, changes={"item": (np.array([1, 5]), values)})
    path = write_delta(delta, tmp_path / "delta").path
    read = read_delta(path, ranker="sha256:r", version=0, shapes=shapes)
    found.tables.write({n: (torch.from_numpy(r), torch.from_numpy(v)) for n, (r, v) in read.changes.items()}, 1)
    scored = found.score(asked)
    assert scored.version == 1
    assert not np.array_equal(scored.logits, before)
    np.testing.assert_array_equal(Ranker.load(tmp_path, device="cpu").score(asked).logits, before)  # the file is intact
    for ranker_digest, version in (("sha256:r", 1), ("sha256:other", 0)):
        with pytest.raises(ArtifactError, match="not the ranker's next one"):
            read_delta(path, ranker=ranker_digest, version=version, shapes=shapes)


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        (np.array([5, 1]), np.ones((2, 4), np.float32)),
        (np.array([13]), np.ones((1, 4), np.float32)),
        (np.array([-1]), np.ones((1, 4), np.float32)),
        (np.array([1]), np.ones((1, 3), np.float32)),
        (np.array([1]), np.full((1, 4), np.nan, np.float32)),
    ],
)
def test_a_delta_that_does_not_fit_is_refused(rows: np.ndarray, values: np.ndarray, tmp_path: Path) -> None:
    path = write_delta(Delta(ranker="r", version=1, changes={"item": (rows, values)}), tmp_path / "d").path
    with pytest.raises(ArtifactError, match="do not fit"):
        read_delta(path, ranker="r", version=0, shapes={"item": (13, 4)})


def test_tables_learn_on_and_the_delta_is_what_changed(tmp_path: Path) -> None:
    reader = write(tmp_path / "lists.parquet", 200, 4)
    learning, serving = ranker(NetworkConfig(joint=3)), ranker(NetworkConfig(joint=3))
    weights = {name: tensor.clone() for name, tensor in learning.network.state_dict().items()}
    delta = update_tables(learning, reader, UpdateConfig(rate=1e-2))
    assert delta.rows > 0
    assert all(torch.equal(weights[name], tensor) for name, tensor in learning.network.state_dict().items())
    changes = {n: (torch.from_numpy(r), torch.from_numpy(v)) for n, (r, v) in delta.changes.items()}
    serving.tables.write(changes, delta.version)
    asked = worlds.asked(6)
    np.testing.assert_array_equal(serving.score(asked).logits, learning.score(asked).logits)


def test_metrics_against_their_definitions() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 60).astype(np.float64), (rng.random(60) < 0.3).astype(np.float64)
    pairs = [
        (a > b) + 0.5 * (a == b) for a in scores[labels > 0] for b in scores[labels == 0]
    ]  # fmt: skip
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    offsets = np.array([0, 20, 20, 60])
    parts = [auc(scores[:20], labels[:20]) * 20, auc(scores[20:], labels[20:]) * 40]
    assert grouped_auc(scores, labels, offsets) == pytest.approx(sum(parts) / 60)
    assert np.isnan(auc(scores, np.ones(60)))
    assert log_loss(np.array([0.25, 0.5]), np.array([0, 1])) == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)
    place = places(np.array([1.0, 3.0, 3.0, 2.0]), np.array([0, 4]))
    assert place.tolist() == [4, 1, 2, 3]
    found = ndcg(place, np.array([0, 0, 1, 0]), np.array([0, 4]))
    assert found == pytest.approx(1 / np.log2(3))


def test_platt_finds_slope_and_shift() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=40_000)
    labels = (rng.random(40_000) < 1 / (1 + np.exp(-(2 * logits - 1)))).astype(np.float64)
    slope, shift = platt(logits, labels)
    assert slope == pytest.approx(2, abs=0.1)
    assert shift == pytest.approx(-1, abs=0.1)
