"""Experiments in the gateway."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from genrecall.errors import ConfigError
from genrecall.eval.ope import evaluate_off_policy
from genrecall.experiment.assignment import Arm, Layer
from genrecall.experiment.exposure import read_exposures
from genrecall.recipes.off_policy import replayed
from genrecall.serve.arms import FILE, Arms
from genrecall.serve.config import ServeConfig
from genrecall.serve.state.store import UserState
from tests.serve.world import serving

LAYERS = (
    Layer(
        name="generative",
        salt="1",
        arms={"without": Arm(share=0.5, channels=("item_cf",)), "with": Arm(share=0.5, channels=("generative",))},
    ),
)


def test_arms_decide_what_a_request_leaves_open_and_are_logged(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path, experiments=LAYERS) as world:
            seen = set()
            for number in range(20):
                answer = await world.recommend(user_id=f"u{number}", k=3)
                arm = answer["versions"]["arms"]["generative"]
                assert arm == LAYERS[0].arm_of(f"u{number}")
                wanted = {"without": {"item_cf"}, "with": {"generative"}}[arm]
                assert answer["coverage"]["channels"].keys() == wanted
                seen.add(arm)
            assert seen == {"with", "without"}
            own = await world.recommend(user_id="u1", k=3, channels=["transition"])
            assert own["coverage"]["channels"].keys() == {"transition"}
            nobody = await world.recommend(history=["i1"], k=3)
            assert "arms" not in nobody["versions"] or nobody["versions"]["arms"] == {}
            world.service.arms.close()
        exposures = list(read_exposures(tmp_path / FILE))
        assert len(exposures) == 21
        assert len(exposures[0].items) == 3

    asyncio.run(scenario())


BLEND = Layer(
    name="blend",
    salt="7",
    arms={"old": Arm(share=0.4, channels=("item_cf",)), "new": Arm(share=0.4, channels=("generative", "transition"))},
    interleave=True,
)


def test_lists_are_interleaved_logged_and_credited(run: Path, tmp_path: Path) -> None:
    async def scenario() -> dict[str, list[str]]:
        answered = {}
        async with serving(run, tmp_path, experiments=(BLEND,)) as world:
            for number in range(20):
                user = f"u{number}"
                answer = await world.recommend(user_id=user, k=4)
                if BLEND.arm_of(user) is None:
                    assert "arms" not in answer["versions"]
                    continue
                assert answer["versions"]["arms"] == {"blend": "interleaved"}
                assert answer["coverage"]["channels"].keys() == {"item_cf", "generative", "transition"}
                ids = [item["item_id"] for item in answer["items"]]
                assert len(ids) == len(set(ids)) == 4
                answered[user] = ids
                for channels in (["item_cf"], ["generative", "transition"]):
                    alone = await world.recommend(user_id=user, k=4, channels=channels)
                    best = alone["items"][0]
                    assert best.get("fallback") or best["item_id"] in ids[:2]  # it stands in the first round
                why = (await world.client.get(f"/v1/explain/{answer['request_id']}")).json()
                assert why["fused"] == []
            world.service.arms.close()
        return answered

    answered = asyncio.run(scenario())
    logged = {one.user_id: one for one in read_exposures(tmp_path / FILE) if one.layer == "blend"}
    assert logged.keys() == answered.keys()
    for user, one in logged.items():
        assert one.items == answered[user]
        assert len(one.teams) == len(one.found) == 4
        assert [team == "" for team in one.teams] == [not channels for channels in one.found]
    assert {team for one in logged.values() for team in one.teams} >= {"old", "new"}


def test_only_one_layer_is_interleaved_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one layer"):
        Arms(ServeConfig(state=tmp_path, experiments=(BLEND, replace(BLEND, name="other"))))


def test_an_arm_that_explores_can_be_evaluated_off_policy(run: Path, tmp_path: Path) -> None:
    layer = Layer(name="looks", salt="1", arms={"wide": Arm(share=1.0, explore=0.5)})
    state = tmp_path / "state"

    async def scenario() -> list[list[str]]:
        async with serving(run, state, experiments=(layer,)) as world:
            found = []
            for user in range(60):
                answer = await world.recommend(user_id=f"u{user}", k=5)
                found.append([item["item_id"] for item in answer["items"]])
                events = [{"user_id": f"u{user}", "item_id": found[-1][0]}]
                assert (await world.client.post("/v1/events", json={"events": events})).status_code == 200
            world.service.arms.close()
            return found

    answered = asyncio.run(scenario())
    exposures = list(read_exposures(state / FILE))
    assert [one.items for one in exposures] == answered
    kept = [one for one in exposures if min(one.propensities) >= 0.6 - 1e-9]
    assert 0.3 <= 1 - len(kept) / len(exposures) <= 0.7  # half of them were shuffled, and nearly all of those show it
    users = UserState(state)
    log = replayed(run / "bundle", exposures, _clicked(users), users, window_s=60.0, device="cpu")
    users.close()
    found = evaluate_off_policy(log, least_effective=10)
    assert found.logged.value == pytest.approx(1.0)  # everybody took what stood first
    # The same bundle without exploring would have earned as much: here only the place decides.
    assert found.support == pytest.approx(1.0, abs=0.25)
    for name in ("ips", "snips", "dr"):
        assert found.estimates[name].value == pytest.approx(1.0, abs=0.45), name


def _clicked(users: UserState) -> list[tuple[str, str, float]]:
    return [(event.user_id, event.item_id or "", float(event.timestamp or 0)) for _, event in users.log()]
