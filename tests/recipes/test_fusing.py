from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from tests.serve.world import serving
from typer.testing import CliRunner

from genrecall.bundle.contents import Contents
from genrecall.catalog.store import Catalog
from genrecall.cli.main import app
from genrecall.errors import ConfigError
from genrecall.recipes.fusing import fuse


def test_a_fusion_is_fitted_shipped_and_served(run: Path, tmp_path: Path) -> None:
    (tmp_path / "catalog").symlink_to(run / "catalog")
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    before = Contents.open(tmp_path / "bundle").digest
    asked = ["fuse", "--run", str(tmp_path), "--cases", "40", "--device", "cpu", "--method", "rrf,weighted", "--json"]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    contents = Contents.open(tmp_path / "bundle")
    assert contents.digest == report["digest"] != before
    assert contents.fusion is not None
    assert contents.fusion.config.method == report["method"]
    assert (
        set(report["contributions"]) == set(contents.fusion.config.channels) == {"generative", "item_cf", "transition"}
    )
    for part in report["contributions"].values():
        assert 0 <= part["only"] <= 1

    async def scenario() -> None:
        async with serving(tmp_path, tmp_path / "state") as world:
            answer = await world.recommend(user_id="u3", k=5)
            assert answer["versions"]["fusion"] == report["method"]
            assert answer["versions"]["bundle"] == report["digest"]

    asyncio.run(scenario())


def test_what_cannot_be_fused_is_refused(run: Path, tmp_path: Path) -> None:
    catalog = Catalog.load(run / "catalog")
    with pytest.raises(ConfigError, match="no such channel"):
        fuse(run / "bundle", catalog, tmp_path / "x", channels=["magic"])
    done = CliRunner().invoke(app, ["fuse", "--run", str(run), "--out", str(tmp_path / "x"), "--method", "sum"])
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "x").exists()
