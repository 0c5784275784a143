"""Experiments in the gateway."""

import asyncio
from pathlib import Path

from genrecall.experiment.assignment import Arm, Layer
from genrecall.experiment.exposure import read_exposures
from genrecall.serve.arms import FILE
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
