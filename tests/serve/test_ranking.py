"""The ranker in service: what it is asked is what it learnt from, and what happens where it does not answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrecall.artifacts import open_artifact
from genrecall.bundle.contents import Contents
from genrecall.bundle.load import Recommender
from genrecall.catalog.store import Catalog
from genrecall.engine.host.request import Scores
from genrecall.errors import ArtifactError
from genrecall.eval.harness import queries_of
from genrecall.rank.delta import Delta, write_delta
from genrecall.rank.fit import FitConfig
from genrecall.rank.lists import ListReader
from genrecall.rank.sampling import shaped
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Query
from genrecall.recipes import stages
from genrecall.recipes.rank_eval import judge_rankers
from genrecall.recipes.rank_lists import ListMaker, Shop
from genrecall.recipes.ranking import RankRecipe, train_ranker
from genrecall.serve import answering
from genrecall.serve.batch.run import BatchConfig, run_batch
from genrecall.serve.deltas import DeltaStore
from genrecall.serve.lanes import LaneFailedError, RankAsked, RankListed
from genrecall.serve.worker import messages
from genrecall.serve.worker.ranking import RankingDesk
from genrecall.text.vectors import Vectors
from tests import pipeline
from tests.serve import world

RECIPE = RankRecipe(candidates=20, warm_events=150, vectors=8, fit=FitConfig(epochs=1, warm_epochs=1, device="cpu"))


@pytest.fixture(scope="module")
def ranked_run(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose bundle has a ranker."""
    out = tmp_path_factory.mktemp("ranked")
    catalog = Catalog.load(run / "catalog")
    shop = Shop.open(run / "bundle", catalog, device="cpu")
    train_ranker(shop, Vectors.load(run / "vectors"), RECIPE, out / "ranker", out / "rank-lists")
    stages.export(
        catalog, sid=run / "sid", model=run / "model", out=out / "bundle", recipe=pipeline.RECIPE, ranker=out / "ranker"
    )
    (out / "catalog").symlink_to(run / "catalog")
    return out


class InProcess:
    """The ranking of a worker, without the process."""

    def __init__(self, shop: Recommender) -> None:
        assert shop.ranker is not None
        self.shop, self.asked, self.reads = shop, [], 0
        self.desk = RankingDesk(shop.ranker, self._read)

    async def _read(self, query: Query, items: np.ndarray, user: str | None) -> Scores:
        self.reads += 1
        return self.shop.generative.members[0].read([query], [items])[0]

    async def rank(self, asked: RankAsked) -> RankListed:
        """See ``lanes.RankLane``."""
        self.asked.append(asked)
        return messages.rank_listed(await self.desk.rank(messages.rank_frame(asked)))


class Failing:
    """A ranker that fails or hangs."""

    def __init__(self, hangs: bool) -> None:
        self.hangs = hangs

    async def rank(self, asked: RankAsked) -> RankListed:
        """Never answers."""
        if self.hangs:
            await asyncio.sleep(60)
        raise LaneFailedError("broken")


def fresh(ranked_run: Path) -> InProcess:
    return InProcess(Recommender.load(ranked_run / "bundle", device="cpu"))


def test_a_bundle_ships_the_ranker_of_its_own_parts(run: Path, ranked_run: Path, tmp_path: Path) -> None:
    ranker = open_artifact(ranked_run / "ranker", kind="ranker")
    facts = Contents.open(ranked_run / "bundle").ranker
    assert facts is not None
    assert facts.digest == ranker.digest
    assert Contents.open(run / "bundle").ranker is None
    pipeline.retrained(run, tmp_path / "model", seed=1)
    with pytest.raises(ArtifactError, match="trained on other parts"):
        stages.export(
            Catalog.load(run / "catalog"), sid=run / "sid", model=tmp_path / "model", out=tmp_path / "bundle",
            recipe=pipeline.RECIPE, ranker=ranked_run / "ranker",
        )  # fmt: skip


def test_the_same_request_has_the_same_features_offline_and_online(
    run: Path, ranked_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.load(run / "catalog")
    shop, lane = Shop.open(run / "bundle", catalog, device="cpu"), fresh(ranked_run)
    cases = shop.split.valid.subset(np.arange(6))
    queries = queries_of(cases, shop.config.protocol(shop.split), catalog.profile_of)
    maker = ListMaker(shop, cases, tmp_path / "lists.parquet", k=20)
    maker.add(queries)
    maker.close()
    told: list[Any] = []
    score = Ranker.score
    monkeypatch.setattr(Ranker, "score", lambda ranker, asked: told.append(asked) or score(ranker, asked))
    reader = ListReader(tmp_path / "lists.parquet")
    ranker = lane.desk.ranker
    for query, user, lists in zip(queries, cases.users, reader.batches(1), strict=True):
        candidates = {name: channel.recall([query], shop.fusion.config.top) for name, channel in shop.channels.items()}
        found = shop.fusion.explain(candidates, 20, np.array([len(query.history)]))[0]
        name = catalog.events.user_ids[user]
        listed = asyncio.run(lane.rank(answering.rank_asked(found, query, name, (), 60.0)))
        offline, online = shaped(lists, reader, ranker.schema).asked, told.pop(0)
        one, other = ranker.features.of(offline), ranker.features.of(online)
        for feature, bag in one.bags.items():
            assert bag.values.tobytes() == other.bags[feature].values.tobytes(), feature
            assert bag.offsets.tobytes() == other.bags[feature].offsets.tobytes(), feature
        assert one.items.tobytes() == other.items.tobytes()
        by_model = [place for place, name in enumerate(ranker.schema.evidence) if name == "sid_score"]
        counted = np.setdiff1d(np.arange(ranker.schema.told), by_model)
        assert one.told[:, counted].tobytes() == other.told[:, counted].tobytes()
        # What the engine computes depends on its batch in the last bits.
        np.testing.assert_allclose(one.told[:, by_model], other.told[:, by_model], atol=1e-4)
        np.testing.assert_allclose(ranker.score(offline).logits, listed.logits, atol=1e-3)
        told.clear()


def test_rankers_are_judged_by_the_order_that_they_give(run: Path, ranked_run: Path, tmp_path: Path) -> None:
    catalog = Catalog.load(run / "catalog")
    shop, ranker = Shop.open(run / "bundle", catalog, device="cpu"), Ranker.load(ranked_run / "ranker", device="cpu")
    cases, lists = shop.split.valid.subset(np.arange(60)), tmp_path / "lists.parquet"
    found, points = judge_rankers(shop, {"joint": ranker}, cases, lists, k=50)
    assert list(found.results) == ["fusion", "joint"]
    reader, places = ListReader(lists), {"fusion": [], "joint": []}
    for request in reader.batches(1):
        logits = ranker.score(shaped(request, reader, ranker.schema).asked).logits
        for name, order in (("fusion", np.arange(len(logits))), ("joint", np.argsort(-logits, kind="stable"))):
            hit = np.flatnonzero(request.labels[order])
            places[name].append(int(hit[0]) + 1 if len(hit) else 0)
    for name, wanted in places.items():
        ranks = found.results[name].ranks
        assert ranks is not None
        assert (ranks[0] == wanted).mean() > 0.99  # scored in batches: sums in another order may swap neighbours
        assert len(set(wanted)) > 2
    assert set(points["joint"]) == {"auc", "gauc", "logloss"}


def test_who_comes_meanwhile_is_scored_together(ranked_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lane, batches, score = fresh(ranked_run), [], Ranker.score
    monkeypatch.setattr(Ranker, "score", lambda ranker, asked: batches.append(len(asked)) or score(ranker, asked))
    rng = np.random.default_rng(0)
    asked = [
        RankAsked(
            query=Query(history=rng.integers(0, 20, 3).astype(np.int32)), user_id=f"u{n}",
            items=rng.permutation(30)[: 5 + n].astype(np.int32), deltas=(), budget_s=60.0,
        )
        for n in range(40)
    ]  # fmt: skip

    async def together() -> list[RankListed]:
        hasty = asyncio.create_task(lane.rank(replace(asked[0], budget_s=1e-6)))  # gives up, and nobody suffers from it
        found = await asyncio.gather(*map(lane.rank, asked))
        with pytest.raises(TimeoutError):
            await hasty
        return found

    found = asyncio.run(together())
    assert max(batches) > 1
    assert len(batches) < len(asked)
    for one, listed in zip(asked, found, strict=True):
        alone = asyncio.run(lane.rank(one))
        np.testing.assert_allclose(listed.logits, alone.logits, rtol=1e-4, atol=1e-5)


def test_what_the_search_computed_is_not_computed_again(ranked_run: Path) -> None:
    lane = fresh(ranked_run)
    query, items = Query(history=np.array([1, 2, 3], np.int32)), np.arange(8, dtype=np.int32)
    plain = asyncio.run(lane.rank(RankAsked(query=query, user_id=None, items=items)))
    assert lane.reads == 1
    read = lane.shop.generative.members[0].read([query], [items])[0]
    lane.desk.remember(query, read.state, items, read.scores)
    again = asyncio.run(lane.rank(RankAsked(query=query, user_id=None, items=items)))
    assert lane.reads == 1  # all is known
    np.testing.assert_allclose(again.logits, plain.logits, atol=1e-5)
    more = asyncio.run(lane.rank(RankAsked(query=query, user_id=None, items=np.arange(12, dtype=np.int32))))
    assert lane.reads == 2  # the four that no beam visited
    np.testing.assert_allclose(more.logits[:8], plain.logits, atol=1e-4)


@pytest.fixture
def lane(ranked_run: Path) -> InProcess:
    return fresh(ranked_run)


def test_recommend(ranked_run: Path, tmp_path: Path, lane: InProcess) -> None:
    async def scenario() -> None:
        async with world.serving(ranked_run, tmp_path) as served:
            active = served.service.releases.active
            assert active is not None
            plain = await served.recommend(user_id="u1", k=8)
            assert "ranker" not in plain["versions"]
            active.ranks = lane
            answer = await served.recommend(user_id="u1", k=8)
            scores = [item["score"] for item in answer["items"]]
            assert scores == sorted(scores, reverse=True)
            listed = await lane.rank(replace(lane.asked[-1], budget_s=5.0))
            best = lane.asked[-1].items[np.argsort(-listed.logits, kind="stable")[:8]]
            ids = active.contents.items.ids
            assert [item["item_id"] for item in answer["items"]] == [ids[item] for item in best]
            assert answer["versions"]["ranker"] == open_artifact(ranked_run / "ranker").digest
            assert answer["timing_ms"]["rank"] > 0
            for broken, reason in ((Failing(False), "error: rank"), (Failing(True), "timeout: rank")):
                active.ranks = broken
                fallen = await served.recommend(user_id="u1", k=8, deadline_ms=900)
                assert [item["item_id"] for item in fallen["items"]] == [item["item_id"] for item in plain["items"]]
                assert reason in fallen["coverage"]["reasons"]
                assert fallen["coverage"]["degraded"]

    asyncio.run(scenario())


def test_rank(ranked_run: Path, tmp_path: Path, lane: InProcess) -> None:
    async def scenario() -> None:
        async with world.serving(ranked_run, tmp_path) as served:
            active = served.service.releases.active
            assert active is not None
            refused = await served.client.post("/v1/rank", json={"items": ["i1"]})
            assert refused.status_code == 409
            active.ranks = lane
            items = [f"i{n}" for n in range(40)]
            body = {"items": [*items, "nothing", "i3"], "user_id": "u1"}
            answer = (await served.client.post("/v1/rank", json=body)).json()
            assert sorted(item["item_id"] for item in answer["items"]) == sorted(items)
            assert answer["unknown"] == ["nothing"]
            assert [item["rank"] for item in answer["items"]] == list(range(1, 41))
            scores = [item["score"] for item in answer["items"]]
            assert scores == sorted(scores, reverse=True)
            assert all(0 <= item["probability"] <= 1 for item in answer["items"])
            none = (await served.client.post("/v1/rank", json={"items": ["nothing"]})).json()
            assert (none["items"], none["unknown"]) == ([], ["nothing"])  # and no refusal that asks to try again
            many = await served.client.post("/v1/rank", json={"items": ["i1"] * 1001})
            assert many.status_code == 422
            active.ranks = Failing(False)
            assert (await served.client.post("/v1/rank", json=body)).status_code == 503

    asyncio.run(scenario())


def test_deltas_are_taken_in_while_it_answers(ranked_run: Path, tmp_path: Path, lane: InProcess) -> None:
    async def scenario() -> None:
        facts = Contents.open(ranked_run / "bundle").ranker
        assert facts is not None
        rows, width = facts.tables["item"]
        values = np.full((rows, width), 0.5, np.float32)
        values[::2] = -0.5
        delta = Delta(ranker=facts.digest, version=1, changes={"item": (np.arange(rows), values)})
        path = write_delta(delta, tmp_path / "delta").path
        async with world.serving(ranked_run, tmp_path / "state") as served:
            active = served.service.releases.active
            assert active is not None
            active.ranks = lane
            body = {"items": [f"i{n}" for n in range(20)], "user_id": "u1"}
            before = (await served.client.post("/v1/rank", json=body)).json()
            applied = await served.admin.post("/admin/ranker/delta", json={"delta": str(path)})
            assert applied.json() == {"tables": 1}
            after = (await served.client.post("/v1/rank", json=body)).json()
            assert after["versions"]["tables"] == 1
            assert after["items"] != before["items"]
            again = await served.admin.post("/admin/ranker/delta", json={"delta": str(path)})
            assert again.status_code == 409
        kept = DeltaStore(tmp_path / "state").of(facts)
        assert len(kept) == 1
        other = fresh(ranked_run)  # a worker that was started again catches up
        query = Query(history=np.array([1], np.int32))
        listed = await other.rank(RankAsked(query=query, user_id=None, items=np.arange(5, dtype=np.int32), deltas=kept))
        assert listed.version == 1

    asyncio.run(scenario())


def test_a_batch_is_ranked_as_online(ranked_run: Path, tmp_path: Path, lane: InProcess) -> None:
    assert run_batch(ranked_run / "bundle", ranked_run / "catalog", tmp_path / "out", BatchConfig(k=5), device="cpu")
    files = sorted((tmp_path / "out").rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    lists = dict(zip(table["user_id"].to_pylist(), table["item_ids"].to_pylist(), strict=True))

    async def scenario() -> None:
        async with world.serving(ranked_run, tmp_path / "state") as served:
            active = served.service.releases.active
            assert active is not None
            active.ranks = lane
            for user in ("u1", "u7", "u20"):
                answer = await served.recommend(user_id=user, k=5)
                assert [item["item_id"] for item in answer["items"]] == lists[user]

    asyncio.run(scenario())
