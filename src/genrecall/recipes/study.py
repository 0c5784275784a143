"""A study: the whole configuration of `genrecall run`, from files to tables over several seeds.

One default serves every catalog: ``suited_to`` reads what it needs to know off the data (times, baskets, repeats, a
split of its own, how many events there are) and off the device.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from genrecall.catalog.store import Catalog
from genrecall.model.trunk import TrunkConfig
from genrecall.recall.generative import GenerativeConfig
from genrecall.recall.imagined import ImaginedConfig
from genrecall.recall.sasrec import SasrecConfig
from genrecall.recall.teacher import TeacherConfig
from genrecall.recall.transition import in_baskets
from genrecall.recipes.recipe import SplitConfig
from genrecall.sid.build import SidConfig
from genrecall.train.preference import PreferenceConfig
from genrecall.train.sequence.config import SequenceConfig

_SEED_STRIDE = 100
_VERY_FEW_EVENTS, _FEW_EVENTS = 50_000, 150_000
"""With so many places in histories a generator gets to know what its teachers know; what is missing is imagined."""
_MOST_IMAGINED, _MOST_IMAGINED_SMALL = 10.0, 4.0
"""Imagined places for each event: on a GPU, and on two CPU cores, where teachers take their time to answer."""
_STEPS, _SMALL_STEPS, _SCARCE_STEPS = 3200, 1800, 12_800
"""Of a generator's training: on a GPU, on two CPU cores, and on a GPU with very few events."""
_FEWEST_EPOCHS, _FEWEST_BASKET_EPOCHS = 10, 20
"""Passes however many events there are. Baskets get more, because on Online Retail validation still rose at the last of
11 (20 brought 5% of recall@10); what more passes do for large catalogs without baskets was not tried."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Settings of all stages.

    Attributes:
        name: in artifacts and reports.
        split: the rules of training and judging.
        encoder, fields: of the items' text; ``fields`` None takes the text columns there are.
        tables: one generator is trained for each of these SID tables, and their scores are added.
        trunk, train: of every generator.
        sessions: whether items that open a session are told apart.
        normalise: of the softmax over codes.
        preference: of the stage after training; None leaves it out.
        teacher: soft targets from all other channels, out of fold and fused; None learns from the events alone.
        imagined: histories that nobody had, for the teachers to answer; None trains on real ones alone.
        count_folds, sasrec_folds: of the teachers; 0 leaves SASRec out.
        sasrec: of the baseline, and of the teacher.
        sasrec_teacher: what the SASRec that teaches learns of later events.
        generative: the search that is shipped and judged.
        validation_cases, validation_beam: for early stopping.
        seed: of everything random.
    """

    name: str = "default"
    split: SplitConfig = field(default_factory=SplitConfig)
    encoder: str = "minilm"
    fields: str | None = None
    tables: tuple[SidConfig, ...]
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    train: SequenceConfig
    sessions: bool = False
    normalise: str = "trie"
    preference: PreferenceConfig | None = None
    teacher: TeacherConfig | None = field(default_factory=TeacherConfig)
    imagined: ImaginedConfig | None = None
    count_folds: int = 10
    sasrec_folds: int = 3
    sasrec: SasrecConfig
    sasrec_teacher: TeacherConfig = field(default_factory=lambda: TeacherConfig(future=(0.3, 0.15)))
    generative: GenerativeConfig = field(default_factory=GenerativeConfig)
    validation_cases: int = 4000
    validation_beam: int = 20
    seed: int = 0

    def seeded(self, seed: int) -> Study:
        """The same study with other random numbers everywhere, SIDs included."""
        return replace(
            self,
            seed=seed,
            tables=tuple(replace(table, seed=seed * _SEED_STRIDE + n) for n, table in enumerate(self.tables)),
            trunk=replace(self.trunk, seed=seed),
            train=replace(self.train, seed=seed),
            teacher=None if self.teacher is None else replace(self.teacher, seed=seed),
            imagined=None if self.imagined is None else replace(self.imagined, seed=seed),
            sasrec=replace(self.sasrec, train=replace(self.sasrec.train, seed=seed)),
        )

    def on(self, device: str) -> Study:
        """The same study on this device."""
        return replace(
            self,
            train=replace(self.train, device=device),
            sasrec=replace(self.sasrec, train=replace(self.sasrec.train, device=device)),
        )

    def windowed(self, items: int) -> Study:
        """The same study with histories of at most so many items."""
        return replace(
            self,
            trunk=replace(self.trunk, window=items),
            train=replace(self.train, window=items),
            sasrec=replace(self.sasrec, train=replace(self.sasrec.train, window=items)),
        )

    def lasting(self, epochs: float, sasrec: float) -> Study:
        """The same study with these lengths of training, and nothing that validation cases decide."""
        return replace(
            self,
            train=replace(self.train, epochs=epochs),
            preference=None,
            sasrec=replace(self.sasrec, train=replace(self.sasrec.train, epochs=sasrec)),
        )

    def facts(self) -> dict[str, Any]:
        """JSON-able, for reports."""
        return asdict(self)


def split_of(catalog: Catalog) -> SplitConfig:
    """A split of the source's own where it brings one, else leave-one-out."""
    if catalog.events.split is not None:
        return SplitConfig(rule="source", repeats="keep", history="kept")
    return SplitConfig()


def suited_to(
    catalog: Catalog, *, name: str = "default", split: SplitConfig | None = None, small: bool = False
) -> Study:
    """The default study for a catalog.

    Args:
        catalog: with events.
        name: in artifacts and reports.
        split: None chooses by :func:`split_of`.
        small: sizes for two CPU cores rather than a GPU.
    """
    split = split or split_of(catalog)
    train = split.divide(catalog).train
    baskets = in_baskets(train)
    codes = 256 if len(catalog.items) >= 5000 else 64
    events, window = len(train.items), 50
    scarce = events < _VERY_FEW_EVENTS
    wide = not small and not scarce
    batch = 1024 if scarce else 2048
    weights: tuple[float, ...] = (0.5,) if small else (0.5, 0.35, 0.65)
    steps = _SMALL_STEPS if small else _STEPS
    sasrec_epochs = _epochs(events, batch, steps=steps)
    imagined = None
    if 0 < events < 2 * _FEW_EVENTS:
        most = _MOST_IMAGINED_SMALL if small else _MOST_IMAGINED
        imagined = ImaginedConfig(ratio=min(most, _FEW_EVENTS / events))
    if imagined is not None and scarce and not small:
        # Little data is quickly trained on, and what it lacks most is what its teachers say of other histories.
        weights, steps, imagined = (*weights, 0.2, 0.8), _SCARCE_STEPS, replace(imagined, share=0.75)
    fewest = _FEWEST_BASKET_EPOCHS if baskets and not small else _FEWEST_EPOCHS
    epochs = _epochs(events / (1 if imagined is None else 1 - imagined.share), batch, steps=steps, fewest=fewest)
    return Study(
        name=name,
        split=split,
        tables=tuple(
            SidConfig(levels=4, codes=codes, quantizer="rq_kmeans", collaborative_weight=weight) for weight in weights
        ),
        trunk=TrunkConfig(
            width=256 if wide else 128,
            layers=3 if wide else 2,
            depth_layers=1 if small else 2,
            heads=4,
            window=window,
        ),
        train=SequenceConfig(
            epochs=epochs,
            batch_tokens=batch,
            window=window,
            optimizer="muon",
            adamw_only=("lm_head",),
            learning_rate=2e-3,
            warmup=0.03,
            eval_every=epochs / 6,
            patience=2,
        ),
        sessions=baskets,
        teacher=TeacherConfig(
            trust=0.9 if scarce else 0.6,  # single events say little of what is likely
            removed=split.history == "removed",
        ),
        imagined=imagined,
        sasrec_folds=0 if small else 3,
        sasrec=SasrecConfig(
            item_dropout=0.15,
            train=SequenceConfig(
                epochs=sasrec_epochs,
                batch_tokens=batch,
                window=window,
                optimizer="muon",
                learning_rate=2e-3,
                warmup=0.03,
                eval_every=sasrec_epochs / 6,
                patience=2,
            ),
        ),
    )


def _epochs(events: float, batch_tokens: int, *, steps: int, fewest: int = _FEWEST_EPOCHS) -> float:
    """Passes that make so many steps: a small data set is too soon through for a model to have learnt it."""
    filled = 0.7 * batch_tokens
    return float(np.clip(round(steps * filled / max(events, 1)), fewest, 300))


def remarks(study: Study) -> tuple[str, ...]:
    """What a reader of the tables must know of the channels."""
    told = [f"the generative channel scores items by trie-constrained SID probabilities of {len(study.tables)} tables"]
    if study.teacher is not None:
        told.append(
            "its training targets were softened by the other channels, fitted out of fold on training events and fused "
            "with weights that were fitted on validation cases"
        )
    if study.preference is not None:
        told.append("its generators learnt preferences over their own beams, where validation cases were better for it")
    told.append("fusion was chosen on one half of the validation cases, fitted on the other, then fitted on both")
    return tuple(told)
