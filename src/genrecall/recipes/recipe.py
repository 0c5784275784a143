"""A recipe: the whole configuration of a run, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from genrecall.bundle.channels import ClassicConfig
from genrecall.catalog import split as splits
from genrecall.catalog.split import Split
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.eval.protocol import Protocol
from genrecall.model.backbones import digest_of_backbone
from genrecall.model.config import ModelConfig
from genrecall.prompt.history import HistoryConfig
from genrecall.prompt.template import Template
from genrecall.recall.generative import GenerativeConfig
from genrecall.sid.build import SidConfig
from genrecall.train.config import TrainConfig
from genrecall.train.result import learnt_from


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Under which rules events train and test; fitted parts remember it, evaluation repeats it.

    Attributes:
        rule: ``leave_one_out``, ``temporal`` or ``source`` (the events' own column ``split``).
        repeats: ``first`` counts only a user's first event on an item, ``keep`` all of them.
        tie_seed: shuffles events of equal time; None keeps the source's order.
        history: whether lists may hold items of the user's history.
        min_events: shorter histories only train (leave-one-out).
    """

    rule: Literal["leave_one_out", "temporal", "source"] = "leave_one_out"
    repeats: Literal["first", "keep"] = "first"
    tie_seed: int | None = 0
    history: Literal["removed", "kept"] = "removed"
    min_events: int = 3

    def __post_init__(self) -> None:
        allowed = {
            "rule": ("leave_one_out", "temporal", "source"),
            "repeats": ("first", "keep"),
            "history": ("removed", "kept"),
        }
        for name, values in allowed.items():
            seen = {"rule": self.rule, "repeats": self.repeats, "history": self.history}[name]
            if seen not in values:
                raise ConfigError(
                    f"unknown {name} of the split", seen=seen, allowed=", ".join(values), fix="choose one"
                )

    def divide(self, catalog: Catalog) -> Split:
        """Split a catalog's events."""
        catalog.require_events("splitting")
        if self.rule == "source":
            return splits.source(catalog.events, repeats=self.repeats, tie_seed=self.tie_seed)
        histories = catalog.events.histories(self.repeats, self.tie_seed)
        if self.rule == "temporal":
            return splits.temporal(histories)
        return splits.leave_one_out(histories, min_events=self.min_events)

    def protocol(self, split: Split, *, remarks: tuple[str, ...] = ()) -> Protocol:
        """The rules as a table states them."""
        return Protocol(
            split=split.rule,
            repeats=self.repeats,
            tie_seed=self.tie_seed,
            timed=split.train.timed,
            history=self.history,
            remarks=remarks,
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of all stages from text to bundle.

    Attributes:
        name: in artifacts and reports.
        split: the rules of training and judging.
        encoder: name or directory of the text encoder.
        fields: text template; None takes the text columns there are.
        sid: semantic IDs.
        backbone: HF directory or Hub name; None trains ``model`` from scratch.
        model: sizes of a model from scratch.
        template: prompt template, by name, or as a model was trained with it.
        history: which events a prompt shows.
        align: a first phase that trains the backbone (or the model from scratch) on a mixture of alignment tasks; the
            second phase, ``train``, starts from its weights. None: one phase.
        train: the training run.
        validation_cases: at most so many cases are asked at each validation.
        validation_beam: their beam.
        generative: settings of the search that is shipped.
        channels: settings of the classic channels.
        grown_from: digests of earlier training events that these contain: what was fitted on them has seen
            nothing that is held out now.
    """

    name: str = "default"
    split: SplitConfig = field(default_factory=SplitConfig)
    encoder: str = "minilm"
    fields: str | None = None
    sid: SidConfig = field(default_factory=SidConfig)
    backbone: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    template: str | Template = "compact"
    history: HistoryConfig = field(default_factory=HistoryConfig)
    align: TrainConfig | None = None
    train: TrainConfig = field(default_factory=TrainConfig)
    validation_cases: int = 1000
    validation_beam: int = 20
    generative: GenerativeConfig = field(default_factory=GenerativeConfig)
    channels: ClassicConfig = field(default_factory=ClassicConfig)
    grown_from: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What the model's manifest adds to the training settings."""
        return {
            "name": self.name,
            "split": asdict(self.split),
            "backbone": digest_of_backbone(self.backbone) if self.backbone else None,
            "model": None if self.backbone else asdict(self.model),
            "validation": {"cases": self.validation_cases, "beam": self.validation_beam},
            **({"align": learnt_from(self.align)} if self.align is not None else {}),
            **({"grown_from": list(self.grown_from)} if self.grown_from else {}),
        }
