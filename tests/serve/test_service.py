"""What the online path answers, whatever its channels do."""

import asyncio
import itertools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from genrecall.catalog.items import Items
from genrecall.serve.problems import Problem
from genrecall.serve.schema import Filter
from tests.serve.world import Spoiled, release, serving, shop

FAULTS = {"hang": lambda: time.sleep(1.0), "raise": lambda: [][0]}


def test_the_generative_channel_alone_answers_as_the_library_does(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            history = ["i0", "i8", "i3"]
            answer = await world.recommend(history=history, k=5, channels=["generative"])
            expected = shop(run).recommend(history, k=5)
            assert [item["item_id"] for item in answer["items"]] == [item.item_id for item in expected.items]
            for item, other in zip(answer["items"], expected.items, strict=True):
                assert item["sid"] == other.sid
                assert abs(item["sequence_score"] - other.score) < 1e-3

    asyncio.run(scenario())


def test_a_users_stored_history_counts_as_one_that_is_given(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            page = (await world.client.get("/v1/users/u3")).json()
            seen = [event["item_id"] for event in page["history"]]
            answer = await world.recommend(user_id="u3", k=10)
            assert not {item["item_id"] for item in answer["items"]} & set(seen)
            assert set(answer["coverage"]["channels"]) == {"generative", "item_cf", "transition"}
            again = await world.recommend(user_id="u3", k=40, exclude_seen=False)
            assert len(again["items"]) == 40
            assert answer["timing_ms"]["total"] >= answer["timing_ms"]["channels"] > 0

    asyncio.run(scenario())


def test_items_are_distinct_ranked_and_say_who_found_them(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            answer = await world.recommend(history=["i0", "i8"], k=20)
            ids = [item["item_id"] for item in answer["items"]]
            assert len(set(ids)) == 20
            assert [item["rank"] for item in answer["items"]] == list(range(1, 21))
            scores = [item["score"] for item in answer["items"]]
            assert scores == sorted(scores, reverse=True)
            for item in answer["items"]:
                assert item["channels"]
                assert ("generative" in item["channels"]) == ("sequence_score" in item)
            assert not answer["coverage"]["degraded"]

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", FAULTS)
def test_any_channels_may_fail_and_the_others_answer_in_time(run: Path, tmp_path: Path, fault: str) -> None:
    names = ("generative", "item_cf", "transition")
    cases = [*((name,) for name in names), *itertools.combinations(names, 2), names]

    async def scenario() -> None:
        for number, case in enumerate(cases):
            spoiled = {name: Spoiled(name, FAULTS[fault]) for name in case}
            async with serving(run, tmp_path / str(number), channels=spoiled, deadline_s=0.3) as world:
                begun = time.perf_counter()
                answer = await world.recommend(history=["i0", "i8"], k=5)
                assert time.perf_counter() - begun < 0.4
                assert len(answer["items"]) == 5
                assert answer["coverage"]["degraded"]
                outcomes = {name: found["outcome"] for name, found in answer["coverage"]["channels"].items()}
                wanted = "timeout" if fault == "hang" else "error"
                assert outcomes == {name: wanted if name in case else "ok" for name in names}
                assert (answer["coverage"]["filled"] == 5) == (len(case) == 3)
                alone = await world.recommend(
                    history=["i0", "i8"], k=5, channels=[n for n in names if n not in case] or ["popularity"]
                )
                same = [item["item_id"] for item in alone["items"]] == [item["item_id"] for item in answer["items"]]
                assert same

    asyncio.run(scenario())


def test_nobody_known_gets_popular_items_and_is_told(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            answer = await world.recommend(user_id="nobody", k=4, channels=["popularity"])
            popular = shop(run).recommend([], k=4)
            assert [item["item_id"] for item in answer["items"]] == [item.item_id for item in popular.items]

    asyncio.run(scenario())


def test_an_event_is_in_the_next_answer_and_counted_once(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            before = await world.recommend(user_id="fresh", k=3)
            top = before["items"][0]["item_id"]
            events = {"events": [{"user_id": "fresh", "item_id": top}, {"user_id": "fresh", "item_id": "unheard-of"}]}
            for accepted in (2, 0):
                stored = await world.client.post("/v1/events", json=events, headers={"idempotency-key": "once"})
                assert stored.json()["accepted"] == accepted
                assert stored.json()["duplicates"] == 2 - accepted
                assert stored.json()["unknown_items"] == 1
            after = await world.recommend(user_id="fresh", k=3)
            assert top not in [item["item_id"] for item in after["items"]]
            gone = await world.client.delete("/v1/users/fresh")
            assert gone.json()["erased_events"] == 2
            assert (await world.client.get("/v1/users/fresh")).status_code == 404
            assert (await world.client.get(f"/v1/explain/{after['request_id']}")).status_code == 404

    asyncio.run(scenario())


def test_events_that_no_training_would_take_are_refused_whole(run: Path, tmp_path: Path) -> None:
    fine = {"user_id": "odd", "item_id": "i1"}
    ahead = int(time.time()) + 86_400

    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            for wrong, why in (
                ({**fine, "timestamp": ahead + 3600}, "$.events[1].timestamp"),
                ({"user_id": "odd"}, "needs `item_id`"),
                ({"user_id": "odd", "event": "query", "item_id": "i1"}, "needs `query`"),
            ):
                refused = await world.client.post("/v1/events", json={"events": [fine, wrong]})
                assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
                assert why in refused.json()["detail"]
            assert (await world.client.get("/v1/users/odd")).status_code == 404
            events = [{**fine, "timestamp": ahead - 3600}, {"user_id": "odd", "event": "query", "query": "red"}]
            stored = await world.client.post("/v1/events", json={"events": events})
            assert stored.json()["accepted"] == 2

    asyncio.run(scenario())


def test_delisted_items_never_come(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            asked = {"history": ["i0", "i8"], "k": 6}
            top = [item["item_id"] for item in (await world.recommend(**asked))["items"][:3]]
            told = await world.admin.post("/admin/items/delist", json={"item_ids": top})
            assert told.json() == {"delisted": 3, "unknown": []}
            mistyped = await world.admin.post("/admin/items/delist", json={"item_ids": [top[0], "I0"]})
            assert mistyped.json() == {"delisted": 4, "unknown": ["I0"]}
            for more in ({}, {"channels": ["popularity"]}, {"channels": ["generative"]}, {"k": 40}):
                answer = await world.recommend(**{**asked, **more})
                assert not {item["item_id"] for item in answer["items"]} & set(top)
            assert (await world.client.get(f"/v1/items/{top[0]}")).json()["available"] is False
            await world.admin.post("/admin/items/delist", json={"item_ids": top, "delisted": False})
            assert [item["item_id"] for item in (await world.recommend(**asked))["items"][:3]] == top

    asyncio.run(scenario())


def test_filters_act_inside_the_search(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            titles = shop(run).items.titles
            wanted = [title for title in titles if "lamp" in title]
            asked = {"history": ["i0"], "filters": [{"column": "title", "any_of": wanted}], "k": len(wanted)}
            answer = await world.recommend(**asked)
            assert sorted(item["title"] for item in answer["items"]) == sorted(wanted)
            for bad, code in (
                ({"column": "price", "any_of": ["1"]}, "unknown_column"),
                ({"column": "title", "at_least": 3}, "unusable_filter"),
                ({"column": "title"}, "unusable_filter"),
            ):
                refused = await world.client.post("/v1/recommend", json={"filters": [bad]})
                assert (refused.status_code, refused.json()["code"]) == (422, code)

    asyncio.run(scenario())


def test_numbers_are_numbers_however_they_are_written(run: Path) -> None:
    async def scenario() -> None:
        priced = release(run)
        table = priced.contents.items.table
        prices = pa.array([9.5, 10.0] * (len(table) // 2))
        for kind in (pa.float64(), pa.float32()):
            items = Items(table=table.append_column("price", prices.cast(kind)))
            asked = replace(priced, contents=replace(priced.contents, items=items), _barred={})
            for written, first in (("9.50", 0), ("10", 1), ("10.0", 1)):
                barred = asked.barred([Filter(column="price", any_of=[written])])
                assert barred is not None
                assert np.flatnonzero(barred.available).tolist() == list(range(first, len(table), 2))
            with pytest.raises(Problem) as refused:
                asked.barred([Filter(column="price", any_of=["cheap"])])
            assert refused.value.code == "unusable_filter"

    asyncio.run(scenario())


def test_spread_caps_what_shares_a_prefix(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            answer = await world.recommend(history=["i0"], k=8, spread={"levels": 1, "most": 1})
            found = [item["sid"].split(">")[0] for item in answer["items"] if not item.get("fallback")]
            assert len(found) == len(set(found)) > 1

    asyncio.run(scenario())


def test_an_unknown_channel_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            refused = await world.client.post("/v1/recommend", json={"channels": ["magic"]})
            assert refused.json()["code"] == "unknown_channel"
            assert "item_cf" in refused.json()["detail"]

    asyncio.run(scenario())


def test_an_answer_can_be_explained_afterwards(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            answer = await world.recommend(user_id="u3", k=3)
            found = (await world.client.get(f"/v1/explain/{answer['request_id']}")).json()
            assert found["answer"] == answer
            assert set(found["lists"]) == set(answer["coverage"]["channels"])
            assert found["user_id"] == "u3"

    asyncio.run(scenario())
