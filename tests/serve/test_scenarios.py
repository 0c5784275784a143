"""Scenarios over a bundle with two towers and segments: channels, budgets, fusion, arrangement, fallbacks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genrecall.bundle.channels import ClassicConfig
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.experiment.assignment import Arm, Layer
from genrecall.recall.ann import IndexConfig
from genrecall.recall.segments import SegmentConfig
from genrecall.recall.two_tower import TwoTowerConfig
from genrecall.recipes import stages
from genrecall.serve.config import ServeConfig
from genrecall.serve.scenario import Diversity, Scenario, read_scenarios
from genrecall.serve.schema import Spread
from genrecall.text.vectors import Vectors
from genrecall.train.sequence.config import SequenceConfig
from tests.pipeline import RECIPE
from tests.serve.world import Spoiled, serving


@pytest.fixture(scope="module")
def wide(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy run with a bundle of more channels."""
    directory = tmp_path_factory.mktemp("wide")
    (directory / "catalog").symlink_to(run / "catalog")
    train = SequenceConfig(epochs=2, window=8, lengths=(8,), batch_tokens=256, device="cpu")
    channels = ClassicConfig(
        segment=SegmentConfig(column="country"),
        two_tower=TwoTowerConfig(width=8, negatives=8, train=train),
        index=IndexConfig(kind="hnsw", links=8),
    )
    bundle = stages.export(
        Catalog.load(run / "catalog"),
        sid=run / "sid",
        model=run / "model",
        out=directory / "bundle",
        recipe=replace(RECIPE, channels=channels),
        vectors=Vectors.load(run / "vectors"),
    )
    assert bundle.manifest.facts["two_tower"]["index"] == "hnsw"
    assert bundle.manifest.facts["two_tower"]["recall of the exact first 10"] > 0.9
    return directory


SCENARIOS = {
    "shared": Scenario(channels=("generative", "two_tower"), method="quota", weights={"two_tower": 3.0}),
    "scored": Scenario(channels=("item_cf", "two_tower"), method="scores"),
    "floored": Scenario(channels=("generative", "two_tower", "item_cf"), floors={"two_tower": 4}),
    "spread": Scenario(channels=("item_cf", "two_tower"), spread=Spread(levels=1, most=2)),
    "mixed": Scenario(channels=("two_tower",), diversity=Diversity(balance=0.2)),
    "plain": Scenario(channels=("two_tower",)),
    "hasty": Scenario(channels=("item_cf", "slow"), budgets_ms={"slow": 60.0}),
    "short": Scenario(channels=("nothing",)),
}


def test_scenarios_choose_channels_fusion_and_arrangement(wide: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(wide, tmp_path, scenarios=SCENARIOS) as world:
            contents = world.service.releases.pick("")[0].contents
            shared = await world.recommend(user_id="u3", k=8, scenario="shared")
            assert shared["coverage"]["channels"].keys() == {"generative", "two_tower"}
            assert shared["versions"]["fusion"] == "quota"
            first = [item for item in shared["items"][:4] if item["channels"].get("two_tower", {}).get("rank", 99) <= 3]
            assert len(first) == 3
            scored = await world.recommend(user_id="u3", k=5, scenario="scored")
            found = (await world.client.get(f"/v1/explain/{scored['request_id']}")).json()
            assert (found["rules"]["scenario"], found["rules"]["method"]) == ("scored", "scores")
            for fused, item in zip(found["fused"], scored["items"], strict=False):
                assert (fused["item_id"], fused["rank"]) == (item["item_id"], item["rank"])
                assert fused["value"] == pytest.approx(sum(fused["parts"].values()), abs=1e-5)
                assert fused["parts"].keys() == item["channels"].keys()
            floored = await world.recommend(user_id="u3", k=5, scenario="floored")
            assert sum("two_tower" in item["channels"] for item in floored["items"]) >= 4
            spread = await world.recommend(user_id="u3", k=8, scenario="spread")
            heads = [item["sid"].split(">")[0] for item in spread["items"] if not item.get("fallback")]
            assert max(heads.count(head) for head in heads) <= 2
            own = await world.recommend(user_id="u3", k=8, scenario="shared", channels=["item_cf"])
            assert own["coverage"]["channels"].keys() == {"item_cf"}

            mixed, plain = [await world.recommend(user_id="u3", k=6, scenario=name) for name in ("mixed", "plain")]
            assert mixed["items"][0]["item_id"] == plain["items"][0]["item_id"]
            take = contents.channels["two_tower"].index.take  # type: ignore[union-attr]
            near = []
            for answer in (mixed, plain):
                vectors = take(np.array([contents.items.index[item["item_id"]] for item in answer["items"]]))
                near.append(float((vectors @ vectors.T)[np.triu_indices(6, 1)].mean()))
            assert near[0] < near[1]
            why = (await world.client.get(f"/v1/explain/{mixed['request_id']}")).json()
            assert why["rules"]["diversity"]["balance"] == 0.2
            assert any(entry["rank"] is None for entry in why["fused"][:6])

    asyncio.run(scenario())


def test_a_channel_has_its_own_budget(wide: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = Spoiled("slow", lambda: time.sleep(1.0))
        async with serving(wide, tmp_path, scenarios=SCENARIOS, channels={"slow": slow}) as world:
            answer = await world.recommend(user_id="u3", k=5, scenario="hasty")
            assert answer["coverage"]["channels"]["slow"]["outcome"] == "timeout"
            assert answer["coverage"]["channels"]["item_cf"]["outcome"] == "ok"
            assert answer["timing_ms"]["channels"] < 900  # not waited for; the deadline is 5 s
            assert answer["coverage"]["degraded"]

    asyncio.run(scenario())


class Nothing:
    """A channel that knows nothing."""

    name = "nothing"

    def recall(self, queries, k):  # type: ignore[no-untyped-def]
        from genrecall.recall.channel import Candidates

        shape = (len(queries), 1)
        return Candidates(items=np.full(shape, -1, np.int32), scores=np.full(shape, -np.inf, np.float32))


def test_short_lists_are_filled_by_the_users_segment_then_by_everybody(wide: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(wide, tmp_path, scenarios=SCENARIOS, channels={"nothing": Nothing()}) as world:
            asked = {"scenario": "short", "k": 5, "history": []}
            french = await world.recommend(**asked, profile={"country": "France"})
            assert [next(iter(item["channels"])) for item in french["items"]] == ["popularity_segment"] * 5
            assert french["coverage"]["filled"] == 5
            nobody = await world.recommend(**asked)
            assert [next(iter(item["channels"])) for item in nobody["items"]] == ["popularity"] * 5
            both = await world.recommend(**{**asked, "k": 40}, profile={"country": "France"})
            ids = [item["item_id"] for item in both["items"]]
            assert len(ids) == len(set(ids)) == 40

    asyncio.run(scenario())


def test_scenarios_that_the_bundle_cannot_keep_are_refused(wide: Path, run: Path) -> None:
    from tests.serve.world import release

    async def scenario() -> None:
        opened = release(wide)
        opened.require(SCENARIOS | {"hasty": Scenario(), "short": Scenario()})
        with pytest.raises(ConfigError, match="not there"):
            opened.require({"x": Scenario(floors={"magic": 1})})
        with pytest.raises(ConfigError, match="not fitted"):
            opened.require({"x": Scenario(method="learned")})
        with pytest.raises(ConfigError, match="two_tower"):
            release(run).require({"x": Scenario(channels=("two_tower",))})
        # Each user of such an arm would be refused, and a weight of nothing would change nothing.
        layer = Layer(name="x", salt="1", arms={"odd": Arm(share=0.5, channels=("item_cf", "magic"))})
        with pytest.raises(ConfigError, match="the arm odd of x names channels that are not there"):
            opened.require({}, [layer])
        with pytest.raises(ConfigError, match="--weight names channels that are not there"):
            opened.require({}, weights={"item_fc": 2.0})

    asyncio.run(scenario())


def test_scenarios_are_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "scenarios.toml"
    file.write_text(
        '[home]\nchannels = ["generative", "two_tower"]\nmethod = "quota"\nweights = {generative = 2}\n'
        'floors = {two_tower = 1}\nbudgets_ms = {two_tower = 20}\nfallback = ["popularity"]\n'
        "[home.spread]\nlevels = 1\nmost = 3\n[home.diversity]\nbalance = 0.8\n"
    )
    home = read_scenarios(file)["home"]
    assert home.channels == ("generative", "two_tower")
    assert home.spread == Spread(levels=1, most=3)
    assert home.diversity == Diversity(balance=0.8)
    assert home.budget_s("two_tower", 0.1) == 0.02
    assert home.budget_s("generative", 0.1) == 0.1
    for wrong in ("[", "[a]\nspeed = 1", '[a]\nmethod = "sum"', "[a]\nfloors = {x = -1}", "[a.diversity]\nbalance = 2",
                  '[a]\nfallback = ["item_cf"]', "[a.spread]\nmost = 0", "a = 1", "[a]\nchannels = []",
                  "[a]\nbudgets_ms = {x = 'fast'}", "[a]\nweights = {x = 1, y = nan}",
                  "[a]\nweights = {x = inf}"):  # fmt: skip
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="cannot be read"):
            read_scenarios(file)
    with pytest.raises(ConfigError):
        read_scenarios(tmp_path / "none.toml")


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_none_are_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(ConfigError, match="weigh"):
        ServeConfig(state=tmp_path, weights={"item_cf": weight})
