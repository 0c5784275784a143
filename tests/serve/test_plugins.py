"""Channels of others: the guide's package, really installed, and plug-ins that misbehave."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrecall.bundle.contents import Contents
from genrecall.recall.channel import Barred, Candidates, Query
from genrecall.serve.plugins import GROUP, Guarded, plugins
from genrecall.serve.scenario import read_scenarios
from tests.serve.world import serving

GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/channels.md"


def files() -> dict[str, str]:
    """The guide's files by name."""
    found = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    return dict(found)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's package, as pip installs it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name, text in files().items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True, timeout=120)
    return target


@pytest.mark.slow
def test_the_guides_package_answers_beside_the_others(
    run: Path, tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    for name in ("scenarios.toml", "scenarios-newest.toml"):
        (tmp_path / name).write_text(files()[name], encoding="utf-8")
    scenarios = read_scenarios(tmp_path / "scenarios-newest.toml")

    async def scenario() -> None:
        async with serving(run, tmp_path / "state", scenarios=scenarios) as world:
            release = world.service.releases.pick("")[0]
            release.require(read_scenarios(tmp_path / "scenarios.toml"))
            alone = await world.recommend(user_id="u3", k=4, channels=["newest"], exclude=["i39"])
            assert [item["item_id"] for item in alone["items"]][:2] == ["i38", "i37"]
            both = await world.recommend(user_id="u3", k=4, scenario="fresh")
            assert both["coverage"]["channels"].keys() == {"generative", "newest"}
            assert any("newest" in item["channels"] for item in both["items"])
            metrics = (await world.client.get("/metrics")).text
            assert 'genrecall_channel_unique_items_total{channel="newest"}' in metrics

    asyncio.run(scenario())


class Point:
    """An entry point of a package that is not there."""

    def __init__(self, name: str, load: Any) -> None:
        self.name, self.value, self._load = name, f"some.where:{name}", load

    def load(self) -> Any:
        return self._load()


def _raise() -> Any:
    raise ImportError("no module named some")


def test_plugins_that_misbehave_fail_alone(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        name = "wrong"

        def recall(self, queries: list[Query], k: int) -> Candidates:
            return Candidates(items=np.array([[1, 1]]), scores=np.array([[2.0, 1.0]]))

    def factory(contents: Contents) -> Wrong:
        return Wrong()

    def failing(contents: Contents) -> Wrong:
        raise KeyError("no such table")

    points = [Point("missing", _raise), Point("failing", lambda: failing), Point("wrong", lambda: factory),
              Point("popularity", lambda: factory), Point("nothing", lambda: None)]  # fmt: skip

    def entry_points(group: str) -> list[Point]:
        assert group == GROUP
        return points

    async def answers(names: list[str]) -> tuple[list[str], dict[str, Any]]:
        async with serving(run, tmp_path / "-".join(names)) as world:
            answer = await world.recommend(user_id="u3", k=5, channels=names)
            return [item["item_id"] for item in answer["items"]], answer["coverage"]

    expected, _ = asyncio.run(answers(["item_cf", "transition"]))
    monkeypatch.setattr(metadata, "entry_points", entry_points)
    broken = ["missing", "failing", "wrong", "nothing"]
    found, coverage = asyncio.run(answers(["item_cf", "transition", *broken]))
    assert found == expected
    assert {name: coverage["channels"][name]["outcome"] for name in broken} == dict.fromkeys(broken, "error")
    assert coverage["degraded"]
    contents = Contents.open(run / "bundle")
    assert "popularity" not in plugins(contents, ["popularity"])  # the bundle's own stands


@pytest.mark.parametrize(
    ("items", "scores"),
    [
        ([[1, 1]], [[2.0, 1.0]]),
        ([[1, 40]], [[2.0, 1.0]]),
        ([[1, 2]], [[1.0, 2.0]]),
        ([[1, 2]], [[float("nan"), 1.0]]),
        ([[1, 2], [1, 2]], [[2.0, 1.0]] * 2),
        ([[1, 2, 3]], [[2.0, 1.0]]),
        ([[1.5, 2.5]], [[2.0, 1.0]]),
        ([1, 2], [2.0, 1.0]),
    ],
)
def test_answers_that_break_the_protocol_are_refused(items: Any, scores: Any) -> None:
    class Fixed:
        name = "fixed"

        def recall(self, queries: list[Query], k: int) -> Candidates:
            return Candidates(items=np.array(items), scores=np.array(scores))

    with pytest.raises(ValueError):
        Guarded("fixed", Fixed(), 40).recall([Query()], 2)


def test_exclusions_are_applied_to_what_plugins_answer() -> None:
    class All:
        name = "all"

        def recall(self, queries: list[Query], k: int) -> Candidates:
            rows = len(queries)
            return Candidates(items=np.tile(np.arange(6), (rows, 1)), scores=np.tile(-np.arange(6.0), (rows, 1)))

    found = Guarded("all", All(), 6).recall([Query(exclude=np.array([0, 3], np.int32)), Query()], 3)
    assert found.items.tolist() == [[1, 2, 4], [0, 1, 2]]
    assert found.scores.tolist() == [[-1.0, -2.0, -4.0], [0.0, -1.0, -2.0]]
    under_a_rule = Query(exclude=np.array([3], np.int32), barred=Barred(np.arange(6) % 2 == 1))
    assert Guarded("all", All(), 6).recall([under_a_rule], 3).items.tolist() == [[1, 5, -1]]
