"""SID tables, teachers and generators of a study, each an artifact that is made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrecall.artifacts import is_current, open_artifact, write_artifact
from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Split
from genrecall.catalog.store import Catalog
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.eval.harness import queries_of
from genrecall.index.trie import Trie
from genrecall.model.trunk import ItemTrunk
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.recall.basket import BasketChannel
from genrecall.recall.generative import GenerativeChannel, GenerativeConfig
from genrecall.recall.sasrec import SasrecChannel
from genrecall.recall.teacher import Teacher, soft_targets
from genrecall.recall.transition import TransitionChannel, in_baskets, suited_to
from genrecall.recipes.study import Study
from genrecall.sid.build import build_sids, is_built
from genrecall.sid.table import SidTable
from genrecall.telemetry import log
from genrecall.text.vectors import Vectors
from genrecall.train.sequence.soft import SoftTargets
from genrecall.train.trunk_fit import train_trunk, trunk_manifest

_SOFT = "soft.safetensors"


def tables(catalog: Catalog, vectors: Vectors, split: Split, study: Study, out: Path) -> list[Path]:
    """One ``sid`` artifact for each of the study's tables: ``sid``, ``sid-1``, …"""
    made = []
    for number, config in enumerate(study.tables):
        target = out / ("sid" if number == 0 else f"sid-{number}")
        histories = split.train if config.collaborative_weight else None
        if not is_built(target, config, catalog, vectors, histories):
            build_sids(catalog, vectors, out=target, config=config, histories=histories)
        made.append(target)
    return made


def teacher(split: Split, num_items: int, study: Study, out: Path) -> SoftTargets | None:
    """The soft targets of the training events, as an artifact."""
    if study.teacher is None:
        return None
    baskets = in_baskets(split.train)
    config = {
        "teacher": asdict(study.teacher),
        "counts": "basket" if baskets else "transition",
        "folds": [study.count_folds, study.sasrec_folds],
        "sasrec": {**asdict(study.sasrec), "train": study.sasrec.train.identity(), "weight": study.sasrec_weight},
        "sasrec_teacher": {**asdict(study.sasrec_teacher), "counts": study.sasrec_counts},
    }
    parents = {"histories": split.train.digest}
    if not is_current(out, kind="teacher", config=config, parents=parents):
        told = soft_targets(_teachers(study, num_items, baskets), split.train, study.teacher)
        with write_artifact(out, kind="teacher", config=config, parents=parents) as writer:
            save_file({"items": told.items, "weights": told.weights}, writer.path / _SOFT)
    stored = open_artifact(out, kind="teacher")
    arrays = load_file(stored.file(_SOFT))
    return SoftTargets(items=arrays["items"], weights=arrays["weights"], digest=stored.digest)


def _teachers(study: Study, num_items: int, baskets: bool) -> list[Teacher]:
    def counts(histories: Histories) -> Any:
        if baskets:
            return BasketChannel.fit(histories, num_items)
        return TransitionChannel.fit(histories, num_items, replace(suited_to(histories), directed=True))

    counting = Teacher(name="counts", fit=counts, folds=study.count_folds)

    def sasrec(histories: Histories) -> Any:
        # What teaches it has seen its own fold alone. No validation: it trains as long as its schedule says.
        soft = soft_targets([counting] if study.sasrec_counts else [], histories, study.sasrec_teacher)
        return SasrecChannel.taught(histories, num_items, study.sasrec, soft)

    every = [
        counting,
        Teacher(name="sasrec", fit=sasrec, folds=study.sasrec_folds, weight=study.sasrec_weight, log_scores=True),
    ]
    return [one for one in every if one.folds]


def generators(
    catalog: Catalog, split: Split, study: Study, sids: list[Path], soft: SoftTargets | None, out: Path
) -> list[Path]:
    """One ``model`` artifact for each table: ``model``, ``model-1``, …"""
    made = []
    for number, sid in enumerate(sids):
        target = out / ("model" if number == 0 else f"model-{number}")
        _generator(catalog, split, study, sid, soft, target)
        made.append(target)
    return made


def _generator(catalog: Catalog, split: Split, study: Study, sid: Path, soft: SoftTargets | None, out: Path) -> None:
    table = SidTable.load(sid)
    users = np.flatnonzero(split.train.lengths)
    prompt = ItemPrompt.learn(
        len(catalog.items),
        table.space,
        (catalog.profile_of(int(user)) for user in users),
        window=study.trunk.window,
        sessions=study.sessions,
    )
    recipe = {"name": study.name, "split": asdict(study.split), "tables": len(study.tables)}
    manifest = trunk_manifest(
        study.trunk, study.train, normalise=study.normalise, sessions=study.sessions, recipe=recipe
    )
    parents = {"catalog": catalog.digest, "sid": table.digest, "histories": split.train.digest}
    if soft is not None:
        parents["teacher"] = soft.digest
    if is_current(out, kind="model", config=manifest, parents=parents):
        return
    result = train_trunk(
        table,
        split.train,
        out=out,
        model=study.trunk,
        train=study.train,
        prompt=prompt,
        profile_of=catalog.profile_of,
        normalise=study.normalise,
        soft=soft,
        validate=ndcg_at_10(catalog, split, table, prompt, study) if len(split.valid) else None,
        parents=parents,
        recipe=recipe,
    )
    log(f"{out.name}: {result.epochs:.0f} epochs in {result.seconds:.0f} s, {result.events_per_s:,.0f} events/s")


def ndcg_at_10(
    catalog: Catalog, split: Split, table: SidTable, prompt: ItemPrompt, study: Study
) -> Callable[[ItemTrunk], float]:
    """Validation while training: NDCG@10 of the generative channel on a fixed sample of validation cases."""
    count = min(study.validation_cases, len(split.valid))
    cases = split.valid.subset(np.sort(np.random.default_rng(0).permutation(len(split.valid))[:count]))
    counts = split.train.item_counts(len(catalog.items))
    queries = queries_of(cases, study.split.protocol(split), catalog.profile_of)
    trie = Trie.build(table.space, table.sids)
    settings = EngineConfig(normalise=_normalise(study), device=study.train.device)
    search = GenerativeConfig(beam=study.validation_beam)

    def measure(model: ItemTrunk) -> float:
        channel = GenerativeChannel(Engine(model, trie, prompt.sid_tokens, settings), prompt, table, counts, search)
        hit = channel.recall(queries, 10).items == cases.targets[:, None]
        return float((hit / np.log2(np.arange(10) + 2)).sum(1).mean())

    return measure


def _normalise(study: Study) -> Any:
    return study.normalise  # checked by EngineConfig
