"""Two phases: alignment, then the next item from its weights; killed in either, a run goes on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import pipeline
from tests.recipes.test_backbones import _save

from genrecall import Recommender
from genrecall.artifacts import open_artifact
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.model.lora import LoraSettings
from genrecall.model.weights import load_model
from genrecall.recall.channel import Query
from genrecall.recipes import stages
from genrecall.sid.table import SidTable
from genrecall.train.config import TrainConfig
from genrecall.train.mixture import Mixture
from genrecall.train.run import Run

FIRST = TrainConfig(
    epochs=2, batch_tokens=512, learning_rate=3e-3, dropout=0.0, optimizer="adamw", checkpoint_every_s=0,
    checkpoint_every_steps=2, log_every=1, device="cpu", precision="float32",
    mixture=Mixture(shares={"title_to_sid": 1, "sid_to_title": 1, "query_to_sid": 1}),
)  # fmt: skip
SECOND = dataclasses.replace(FIRST, mixture=Mixture(shares={"next_item": 0.8, "search": 0.2}))


class Killed(BaseException):
    """Stands for a kill in the middle of a step."""


def two_phases(run: Path, out: Path, backbone: Path | None, *, lora: LoraSettings | None = None):
    catalog = Catalog.load(run / "catalog")
    recipe = dataclasses.replace(
        pipeline.RECIPE,
        backbone=None if backbone is None else str(backbone),
        template="zh" if backbone else "compact",
        model=dataclasses.replace(pipeline.RECIPE.model, window=128),
        align=dataclasses.replace(FIRST, lora=lora),
        train=dataclasses.replace(SECOND, lora=lora),
    )
    split = recipe.split.divide(catalog)
    return stages.train_model(catalog, split, sid=run / "sid", out=out / "model", recipe=recipe), recipe, catalog


@pytest.fixture(scope="module")
def backbone(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("llm") / "backbone", "Qwen2", Catalog.load(run / "catalog").items.titles)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scratch", "backbone", "lora"])
def test_a_model_of_two_phases_is_shipped_recommends_and_searches(
    run: Path, tmp_path: Path, backbone: Path, kind: str
) -> None:
    lora = LoraSettings(rank=4, alpha=8) if kind == "lora" else None
    model, recipe, catalog = two_phases(run, tmp_path, None if kind == "scratch" else backbone, lora=lora)
    aligned = open_artifact(tmp_path / "model-aligned")
    assert aligned.manifest.config["train"]["mixture"]["shares"] == FIRST.mixture.shares
    assert aligned.manifest.facts["best"] is None
    shares = {name: entry["share"] for name, entry in model.manifest.facts["mixture"].items()}
    assert shares["next_item"] == pytest.approx(0.8, abs=0.01)
    assert model.manifest.config["recipe"]["align"]["mixture"]["shares"] == FIRST.mixture.shares
    assert str(tmp_path) not in (model.path / "manifest.json").read_text()
    stages.export(catalog, sid=run / "sid", model=tmp_path / "model", out=tmp_path / "bundle", recipe=recipe)
    shop = Recommender.load(tmp_path / "bundle", device="cpu")
    assert len(shop.recommend(["i0", "i8"], k=5).items) == 5
    history = np.array([0, 8], dtype=np.int32)
    found = shop.generative.recall([Query(text="shirt"), Query(history=history, text="shirt")], 5)
    assert (found.items >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("phase", [1, 2])
def test_a_run_killed_in_either_phase_goes_on(
    run: Path,
    tmp_path: Path,
    backbone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    phase: int,
) -> None:
    whole, _, _ = two_phases(run, tmp_path / "whole", backbone)
    original = Run.step

    def step(self, progress):
        if progress.step == 3 and ("next_item" in self.config.mixture.shares) == (phase == 2):
            raise Killed
        return original(self, progress)

    monkeypatch.setattr(Run, "step", step)
    with pytest.raises(Killed):
        two_phases(run, tmp_path / "parts", backbone)
    assert (tmp_path / "parts" / "model-aligned").exists() == (phase == 2)
    monkeypatch.setattr(Run, "step", original)
    assert "going on" not in capsys.readouterr().err
    parts, _, _ = two_phases(run, tmp_path / "parts", backbone)
    said = capsys.readouterr().err
    assert said.count("going on from the checkpoint at step 2") == 1
    assert said.count("is current: nothing to do") == phase - 1
    assert parts.digest == whole.digest


def test_the_second_phase_starts_from_the_weights_of_the_first(
    run: Path, tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = Run.__init__

    def note(self, model, *others):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        original(self, model, *others)

    monkeypatch.setattr(Run, "__init__", note)
    two_phases(run, tmp_path, backbone)
    ended = load_model(tmp_path / "model-aligned").state_dict()
    assert len(seen) == 2
    assert all(torch.equal(seen[1][name], ended[name]) for name in ended)
    assert not torch.equal(seen[0]["model.embed_tokens.weight"], ended["model.embed_tokens.weight"])


def test_a_backbone_aligned_with_other_sids_is_refused(run: Path) -> None:
    table = dataclasses.replace(SidTable.load(run / "sid"), digest="sha256:other")
    assert stages._aligned(run / "model", SidTable.load(run / "sid"), ()) is not None
    with pytest.raises(ConfigError, match="trained on other SIDs"):
        stages._aligned(run / "model", table, ())
