"""What the console reads beside the API that everybody uses."""

import asyncio
import shutil
from pathlib import Path

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.experiment.exposure import read_exposures
from genrecall.serve import codebooks
from genrecall.serve.arms import FILE
from genrecall.serve.differences import differences
from genrecall.serve.recent import Traffic
from genrecall.serve.schema import Answer, ChannelCoverage, Coverage, Recommend, Search, Versions
from genrecall.serve.tiers import Tiers
from tests.serve.test_arms import LAYERS
from tests.serve.world import release, serving


def test_items_below_a_prefix_are_those_whose_sids_begin_with_it(run: Path) -> None:
    contents = Contents.open(run / "bundle")
    prefixes = codebooks.summary(contents)["prefixes"]
    assert sum(entry["count"] for entry in prefixes) == len(contents.items)
    for entry in prefixes:
        found = codebooks.below(contents, entry["prefix"])
        assert found is not None
        assert found["count"] == len(found["items"]) == entry["count"]
        assert all(item["sid"].startswith(entry["prefix"]) for item in found["items"])
    everything = codebooks.below(contents, "")
    assert everything is not None
    assert everything["count"] == len(contents.items)
    for wrong in ("<b_1>", "<a_8>", "<a_1><b_1><c_1>", "a_1", "<a_-1>", "<a_01>", "<a_1", "<a_١>"):
        assert codebooks.below(contents, wrong) is None, wrong


def test_neighbours_by_vector_are_those_of_a_plain_cosine(run: Path, tmp_path: Path) -> None:
    matrix = np.load(run / "vectors" / "vectors.npy").astype(np.float64)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            ids = world.service.releases.named("active").contents.items.ids
            for item in (0, 7):
                told = (await world.client.get(f"/v1/neighbours/{ids[item]}")).json()
                cosines = unit @ unit[item]
                cosines[item] = -2
                wanted = [ids[i] for i in np.argsort(-cosines, kind="stable")[:12]]
                assert [near["item_id"] for near in told["by_vector"]][:6] == wanted[:6]
                shared = [near["shared"] for near in told["by_sid"]]
                assert shared == sorted(shared, reverse=True)
                assert told["both"] == len(
                    {n["item_id"] for n in told["by_sid"]} & {n["item_id"] for n in told["by_vector"]}
                )
            assert (await world.client.get("/v1/neighbours/nobody")).status_code == 404

    asyncio.run(scenario())


def test_a_bundle_that_came_alone_says_what_it_lacks(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "bundle", tmp_path / "alone" / "bundle")

    async def scenario() -> None:
        async with serving(run, tmp_path / "state") as world:
            whole = (await world.client.get("/v1/data")).json()
            assert whole["report"]["counts"]["events"] == 480
            assert whole["concentration"]["curve"][-1] == 1.0
            world.service.releases.active = release(tmp_path / "alone")
            lone = (await world.client.get("/v1/neighbours/i1")).json()
            assert lone["by_vector"] is None
            assert lone["by_sid"]

    asyncio.run(scenario())


def test_a_release_is_asked_by_its_role(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path, experiments=LAYERS) as world:
            releases = world.service.releases
            missing = await world.client.post("/v1/recommend", json={"user_id": "u1", "release": "candidate"})
            assert missing.json()["code"] == "conflict"
            releases.candidate = release(run)
            for role in ("active", "candidate"):
                answer = await world.recommend(user_id="u1", k=3, release=role)
                assert answer["versions"]["release"] == role
            told = (await world.client.get("/v1/releases")).json()
            # One bundle in both roles, so that each shows what went out from it.
            assert {role: seen["answers"] for role, seen in told["traffic"].items()} == {"active": 2, "candidate": 2}
            assert told["differences"]["sids"]["changed_count"] == 0
            await world.recommend(user_id="u1", k=3, scenario="console")
            await world.recommend(user_id="u1", k=3)
            world.service.arms.close()
        assert len(list(read_exposures(tmp_path / FILE))) == 1

    asyncio.run(scenario())


def test_experiments_are_told_with_their_report(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path, experiments=LAYERS) as world:
            before = (await world.client.get("/v1/experiments")).json()
            assert before["why"] == "empty"
            assert [arm["name"] for arm in before["layers"][0]["arms"]] == ["without", "with"]
            for number in range(20):
                await world.recommend(user_id=f"u{number}", k=3)
            await asyncio.to_thread(world.service.arms.close)
        async with serving(run, tmp_path, experiments=LAYERS) as world:
            told = (await world.client.get("/v1/experiments")).json()
            report = told["layers"][0]["report"]
            assert sum(report["users"].values()) == 20
            assert report["sound"] is True

    asyncio.run(scenario())


def test_differences_count_what_changed(run: Path) -> None:
    contents = Contents.open(run / "bundle")
    same = differences(contents, contents)
    assert [same["items"][f"{what}_count"] for what in ("added", "removed", "changed")] == [0, 0, 0]
    assert same["sids"] | {"common": 0} == {
        "space_before": [8, 8], "space_after": [8, 8], "common": 0, "changed_count": 0, "changed": [],
    }  # fmt: skip


def _answer(role: str, total_ms: float, *, filled: int = 0, reasons: tuple[str, ...] = ()) -> Answer:
    lanes = {"item_cf": ChannelCoverage("timeout" if reasons else "ok", 3, total_ms / 2)}
    return Answer(
        request_id=f"r{total_ms}", items=[None] * 10,  # type: ignore[list-item]
        coverage=Coverage(lanes, bool(reasons), list(reasons), 4, 8, filled),
        versions=Versions(bundle=f"that of {role}", catalog="c", fusion="rrf", genrecall="0", release=role),
        timing_ms={"total": total_ms},
    )  # fmt: skip


def test_the_last_minute_is_counted_exactly_and_its_slowest_are_kept() -> None:
    traffic = Traffic()
    assert traffic.summary()["answers"] == 0
    for number in range(6000):
        traffic.see(_answer("active", number % 50), 10, "short")
    traffic.see(_answer("candidate", 900.0, filled=4, reasons=("timeout: item_cf",)), 10, "cold")
    told = traffic.summary()
    assert told["answers"] == sum(told["per_second"]) == 6001
    assert told["slowest"][0]["total_ms"] == 900.0
    assert told["tiers"]["cold"] == {"answers": 1, "fill": 0.6}
    assert told["tiers"]["short"]["fill"] == 1.0
    assert told["releases"]["candidate"]["degraded_share"] == 1.0
    assert told["outcomes"]["item_cf"] == {"ok": 6000, "timeout": 1}
    assert told["reasons"] == {"timeout: item_cf": 1}
    assert told["narrowed"] == 6001
    assert 20 <= told["stages_ms"]["total"]["p50"] <= 30


def test_tiers_follow_history_and_frequency() -> None:
    tiers = Tiers()
    assert [tiers.of(Recommend(), n) for n in (0, 1, 4, 5, 19, 20)] == [
        "cold", "short", "short", "medium", "medium", "long",
    ]  # fmt: skip
    seen = [tiers.of(Search(query="Red  Candle" if n % 2 else "red candle"), 0) for n in range(60)]
    assert [seen.index(name) for name in ("unseen", "tail", "torso", "head")] == [0, 1, 5, 50]
    assert tiers.of(Search(query="lamp"), 9) == "unseen"
