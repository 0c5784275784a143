"""The channels beside the generative one: tuned on validation, or trained, each made once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrecall.artifacts import is_current, open_artifact, write_artifact
from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Cases, Split
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.eval.harness import queries_of
from genrecall.recall.basket import BasketChannel, BasketConfig
from genrecall.recall.channel import Channel
from genrecall.recall.dense import DenseChannel, DenseConfig
from genrecall.recall.grids import counted_grids, tune_counted, tune_dense, tune_lexical
from genrecall.recall.hstu import HstuChannel, HstuConfig
from genrecall.recall.item_cf import ItemCfChannel, ItemCfConfig
from genrecall.recall.lexical import LexicalChannel, LexicalConfig
from genrecall.recall.linear import LinearChannel, LinearConfig
from genrecall.recall.popularity import PopularityChannel, PopularityConfig
from genrecall.recall.sasrec import SasrecChannel
from genrecall.recall.transition import TransitionChannel, TransitionConfig
from genrecall.recall.two_tower import TwoTowerChannel, TwoTowerConfig
from genrecall.recall.validation import Validation
from genrecall.recipes.study import Study
from genrecall.telemetry import log
from genrecall.text.fields import default_template
from genrecall.text.vectors import Vectors

_CONFIGS, _WEIGHTS = "configs.json", "channel.safetensors"
_CASES = 4000
Configs = Mapping[str, Mapping[str, Any]]
BY_TEXT = ("lexical", "dense")
BESIDE = ("hstu", "two_tower")
"""Baselines that are judged only, where one asks for them."""
_COUNTED: Mapping[str, tuple[Any, Any]] = {
    "item_cf": (ItemCfChannel, ItemCfConfig),
    "transition": (TransitionChannel, TransitionConfig),
    "transition_undirected": (TransitionChannel, TransitionConfig),
    "basket": (BasketChannel, BasketConfig),
    "linear": (LinearChannel, LinearConfig),
}


def tune(catalog: Catalog, vectors: Vectors, split: Split, study: Study, out: Path) -> Configs:
    """Settings of all channels without training, chosen on validation cases, by channel."""
    items, counts = len(catalog.items), split.train.item_counts(len(catalog.items))
    parents = {"catalog": catalog.digest, "vectors": vectors.digest, "histories": split.train.digest}
    counted = sorted(counted_grids(split.train, items))
    config = {"split": asdict(study.split), "cases": _CASES, "counted": counted}
    if not is_current(out, kind="tuning", config=config, parents=parents):
        cases = sampled(split.valid)
        queries, targets = queries_of(cases, study.split.protocol(split), catalog.profile_of), cases.targets
        tuned: dict[str, Any] = dict(tune_counted(split.train, items, queries, targets))
        tuned["lexical"] = tune_lexical(_texts(catalog), counts, queries, targets)
        tuned["dense"] = tune_dense(vectors.matrix, counts, queries, targets)
        with write_artifact(out, kind="tuning", config=config, parents=parents) as writer:
            told = {name: {"config": asdict(found.config), "tried": found.table()} for name, found in tuned.items()}
            (writer.path / _CONFIGS).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return chosen(out)


def chosen(tuning: Path) -> Configs:
    """The settings that ``tune`` stored."""
    stored = json.loads(open_artifact(tuning, kind="tuning").file(_CONFIGS).read_text(encoding="utf-8"))
    return {name: found["config"] for name, found in stored.items()}


def counted(catalog: Catalog, vectors: Vectors, split: Split, configs: Configs) -> list[Channel]:
    """Popularity, counts and text neighbours with these settings, fitted on the split's training events."""
    return [fitted(name, catalog, vectors, split.train, settings) for name, settings in configs.items()]


def fitted(name: str, catalog: Catalog, vectors: Vectors, histories: Histories, settings: Mapping[str, Any]) -> Channel:
    """One channel without training; those of ``BY_TEXT`` take only items' popularity from the histories."""
    items = len(catalog.items)
    if name == "lexical":
        return LexicalChannel.fit(_texts(catalog), histories.item_counts(items), LexicalConfig(**settings))
    if name == "dense":
        return DenseChannel.fit(vectors.matrix, histories.item_counts(items), DenseConfig(**settings))
    if name == "popularity":
        return PopularityChannel.fit(histories, items, PopularityConfig(**settings))
    kind, config = _COUNTED[name]
    channel: Channel = kind.fit(histories, items, config(**settings)).named(name)
    return channel


def trained(name: str, catalog: Catalog, vectors: Vectors, split: Split, study: Study, out: Path) -> Channel:
    """A network with the full or sampled softmax over items, stopped by NDCG@10 on validation cases.

    ``name`` is sasrec or one of ``BESIDE``; those beside SASRec take the settings of its training.
    """
    kind, settings = _trained(name, study, split.train)
    config = {"channel": name, **asdict(settings), "train": settings.train.identity()}
    parents = {"histories": split.train.digest}
    more: dict[str, Any] = {}
    if name == "two_tower":
        parents |= {"vectors": vectors.digest, "catalog": catalog.digest}
        more = {"vectors": vectors.matrix, "profile_of": catalog.profile_of}
    if not is_current(out, kind="channel", config=config, parents=parents):
        removed = study.split.history == "removed"
        validate = Validation(sampled(split.valid), removed=removed) if len(split.valid) else None
        work = out.with_name(out.name + ".work")
        fresh = kind.fit(split.train, len(catalog.items), settings, validate=validate, work=work, **more)
        log(f"{name}: {fresh.result.epochs:.0f} epochs in {fresh.result.seconds:.0f} s")
        with write_artifact(out, kind="channel", config=config, parents=parents) as writer:
            save_file(_contiguous(fresh.state()), writer.path / _WEIGHTS)
            writer.facts |= asdict(fresh.result)
    state = load_file(open_artifact(out, kind="channel").file(_WEIGHTS))
    channel: Channel = kind.from_state(state, settings, device=settings.train.device)
    return channel


def require_known(beside: Sequence[str]) -> None:
    """Refuse baselines that cannot be trained, before anything is."""
    if unknown := set(beside) - set(BESIDE):
        raise ConfigError(
            "there are no such baselines to train",
            seen=", ".join(sorted(unknown)),
            allowed=", ".join(BESIDE),
            fix="name some of these, separated by commas",
        )


def _trained(name: str, study: Study, histories: Histories) -> tuple[Any, Any]:
    """Class and settings."""
    train = study.sasrec.train
    known: dict[str, tuple[Any, Any]] = {
        "sasrec": (SasrecChannel, study.sasrec),
        "hstu": (HstuChannel, HstuConfig(train=train, timed=histories.timed)),
        "two_tower": (TwoTowerChannel, TwoTowerConfig(train=train)),
    }
    return known[name]


def _texts(catalog: Catalog) -> list[str]:
    return default_template(catalog.items).render(catalog.items)


def sampled(cases: Cases, most: int = _CASES) -> Cases:
    """At most so many cases, by a fixed seed, in their old order."""
    return cases.subset(np.sort(np.random.default_rng(0).permutation(len(cases))[:most]))


def _contiguous(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in state.items()}
