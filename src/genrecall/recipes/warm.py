"""Models that go on: the weights in use, trained a little further on all events, known and new.

Settings are those in the model's manifest, with a lower rate and fewer epochs. Nothing is chosen by validation while a
warm model trains, so that what judges it afterwards has not been used to make it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genrecall.artifacts import Artifact, is_current, open_artifact
from genrecall.catalog.split import Split, refitted
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.model.lora import LoraSettings
from genrecall.model.trunk import TrunkConfig
from genrecall.prompt.history import HistoryConfig
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.prompt.template import Template
from genrecall.recipes import stages
from genrecall.recipes.recipe import Recipe, SplitConfig
from genrecall.sid.table import SidTable
from genrecall.telemetry import log
from genrecall.train.config import TrainConfig
from genrecall.train.distil import DistilConfig
from genrecall.train.mixture import Mixture
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.trunk_fit import train_trunk, trunk_manifest

TRUNK = "trunk"


@dataclass(frozen=True, kw_only=True)
class WarmConfig:
    """How far a warm model is trained.

    Attributes:
        epochs: passes over all events.
        rate_share: learning rate as a share of the one that the model was first trained with.
        device: auto, cpu or cuda.
    """

    epochs: float = 2.0
    rate_share: float = 0.3
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.epochs < math.inf or not 0 < self.rate_share <= 1:
            raise ConfigError(
                "a warm model cannot be trained like this",
                seen=f"epochs={self.epochs}, rate_share={self.rate_share}",
                allowed="more than 0 epochs; a share of the rate above 0, up to 1",
                fix="correct --epochs or --rate-share",
            )


def go_on(
    model: Path, catalog: Catalog, split: Split, *, sid: Path, out: Path, config: WarmConfig, grown_from: Sequence[str]
) -> Artifact:
    """Train a model's weights further and write the new model; one that is current is kept, a killed run goes on.

    Args:
        model: ``model`` artifact of either shape.
        catalog, split: with the new events.
        sid: table with every item of the catalog; the model's own, or one that items were appended to.
        out: directory of the new model.
        config: how far.
        grown_from: digests of the training events before.
    """
    told = open_artifact(model, kind="model").manifest.config
    if told.get("shape") == TRUNK:
        return _trunk(model, told, catalog, split, sid, out, config)
    return _flat(model, told, catalog, split, sid, out, config, grown_from)


def _flat(
    model: Path,
    told: Mapping[str, Any],
    catalog: Catalog,
    split: Split,
    sid: Path,
    out: Path,
    config: WarmConfig,
    grown_from: Sequence[str],
) -> Artifact:
    recipe = Recipe(
        name="refresh",
        split=SplitConfig(**told["recipe"]["split"]),
        backbone=str(model),
        template=Template.from_dict(told["prompt"]["template"]),
        history=HistoryConfig(**told["prompt"]["history"]),
        train=_further(told["train"], config),
        grown_from=tuple(grown_from),
    )
    return stages.train_model(catalog, _unjudged(split), sid=sid, out=out, recipe=recipe)


def _further(told: Mapping[str, Any], config: WarmConfig) -> TrainConfig:
    nested = {"distil": DistilConfig, "mixture": Mixture, "lora": LoraSettings}
    found = {name: kind(**told[name]) for name, kind in nested.items() if told[name] is not None}
    return TrainConfig(**{
        **told, **found, "epochs": config.epochs, "max_seconds": None,
        "learning_rate": told["learning_rate"] * config.rate_share, "device": config.device,
    })  # fmt: skip


def _trunk(
    model: Path, told: Mapping[str, Any], catalog: Catalog, split: Split, sid: Path, out: Path, config: WarmConfig
) -> Artifact:
    """An item trunk. Soft targets of teachers are not made again: it learns from the events alone."""
    table, sizes = SidTable.load(sid), TrunkConfig(**told["model"])
    train = SequenceConfig(**{
        **told["train"], "epochs": config.epochs, "max_seconds": None,
        "learning_rate": told["train"]["learning_rate"] * config.rate_share, "device": config.device,
    })  # fmt: skip
    recipe = {**told["recipe"], "name": "refresh"}
    manifest = trunk_manifest(
        sizes, train, normalise=told["normalise"], sessions=told["sessions"], recipe=recipe
    )  # fmt: skip
    own = open_artifact(model, kind="model")
    parents = {
        "catalog": catalog.digest, "sid": table.digest, "histories": split.train.digest, "start": own.digest,
    }  # fmt: skip
    if is_current(out, kind="model", config=manifest, parents=parents):
        log(f"model in {out} is current: nothing to do")
        return open_artifact(out, kind="model")
    train_trunk(
        table,
        split.train,
        out=out,
        model=sizes,
        train=train,
        prompt=replace(ItemPrompt.load(model, len(catalog.items)), num_items=len(catalog.items)),
        profile_of=catalog.profile_of,
        normalise=told["normalise"],
        parents=parents,
        recipe=recipe,
        start=model,
    )
    return open_artifact(out, kind="model")


def _unjudged(split: Split) -> Split:
    """The same training events, without validation cases to stop by."""
    return replace(refitted(split), train=split.train)
