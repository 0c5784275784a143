"""SID tables, teachers and generators of a study, each an artifact that is made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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
from genrecall.recall.channel import Channel
from genrecall.recall.fusion import Fusion, FusionConfig, FusionFit, fit_fusion
from genrecall.recall.generative import GenerativeChannel, GenerativeConfig
from genrecall.recall.imagined import imagine
from genrecall.recall.on_device import on_device
from genrecall.recall.sasrec import SasrecChannel
from genrecall.recall.teacher import Teacher, soft_targets
from genrecall.recipes import baselines
from genrecall.recipes.search import SearchData
from genrecall.recipes.study import Study
from genrecall.sid.build import build_sids, is_built
from genrecall.sid.table import SidTable
from genrecall.telemetry import log
from genrecall.text.vectors import Vectors
from genrecall.train.sequence.soft import SoftTargets
from genrecall.train.trunk_fit import train_trunk, trunk_manifest
from genrecall.train.turns import TurnRows

_FUSED_CASES = 20_000
_SOFT, _FUSION = "soft.safetensors", "fusion.safetensors"


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """What teachers say: of the training events, and of imagined histories where the study has them."""

    soft: SoftTargets
    imagined: TurnRows | None = None


def teacher(
    catalog: Catalog, vectors: Vectors, split: Split, study: Study, tuning: baselines.Configs, out: Path
) -> Lesson | None:
    """The soft targets of the training events, as an artifact.

    All channels but the generative one teach, out of fold, through a fusion that was fitted on validation cases; where
    there are none (a refit), through the fusion of ``out``'s sibling, the study's own teacher.
    """
    if study.teacher is None:
        return None
    config = {
        "teacher": asdict(study.teacher),
        "imagined": None if study.imagined is None else asdict(study.imagined),
        "channels": {name: dict(settings) for name, settings in tuning.items()},
        "folds": [study.count_folds, study.sasrec_folds],
        "sasrec": {**asdict(study.sasrec), "train": study.sasrec.train.identity()},
        "sasrec_teacher": asdict(study.sasrec_teacher),
    }
    parents = {"histories": split.train.digest, "vectors": vectors.digest}
    imagined = None if study.imagined is None else imagine(split.train, len(catalog.items), study.imagined)
    if not is_current(out, kind="teacher", config=config, parents=parents):
        every = _teachers(catalog, vectors, study, tuning)
        fusion = _fusion(every, catalog, split, study) if len(split.valid) else _stored(out.parent.parent / out.name)
        told = soft_targets(every, split.train, study.teacher, fusion=fusion, imagined=imagined)
        with write_artifact(out, kind="teacher", config=config, parents=parents) as writer:
            save_file({"items": told.items, "weights": told.weights}, writer.path / _SOFT)
            arrays = {name: np.ascontiguousarray(array) for name, array in fusion.state().items()}
            save_file(arrays, writer.path / _FUSION)
            writer.facts |= {"fusion": asdict(fusion.config), "report": fusion.report}
    stored = open_artifact(out, kind="teacher")
    arrays = load_file(stored.file(_SOFT))
    told = SoftTargets(items=arrays["items"], weights=arrays["weights"], digest=stored.digest)
    if imagined is None or study.imagined is None:
        return Lesson(soft=told)
    events = len(split.train.items)
    once = np.ones(len(imagined.rows), np.int64)
    rows = TurnRows(rows=imagined.rows, context=once, users=imagined.users, share=study.imagined.share)
    soft = told.rows(events + rows.targets)
    return Lesson(soft=told.rows(slice(events)), imagined=replace(rows, soft=soft))


def _stored(teacher_of: Path) -> Fusion:
    artifact = open_artifact(teacher_of, kind="teacher")
    return Fusion.from_state(load_file(artifact.file(_FUSION)), FusionConfig(**artifact.manifest.facts["fusion"]))


def counted_teacher(name: str, catalog: Catalog, vectors: Vectors, study: Study, tuning: baselines.Configs) -> Teacher:
    """A channel without training as a teacher; those that read texts alone need no folds."""
    return Teacher(
        name=name,
        fit=lambda histories: on_device(
            baselines.fitted(name, catalog, vectors, histories, tuning[name]), study.train.device
        ),
        folds=1 if name in baselines.BY_TEXT else study.count_folds,
    )


def _teachers(catalog: Catalog, vectors: Vectors, study: Study, tuning: baselines.Configs) -> list[Teacher]:
    def sasrec(histories: Histories) -> Channel:
        # No validation: it trains as long as its schedule says.
        soft = soft_targets([], histories, study.sasrec_teacher)
        return SasrecChannel.taught(histories, len(catalog.items), study.sasrec, soft)

    names = [name for name in tuning if name != "popularity"]
    every = [counted_teacher(name, catalog, vectors, study, tuning) for name in names]
    if study.sasrec_folds:
        every.append(Teacher(name="sasrec", fit=sasrec, folds=study.sasrec_folds))
    return every


def _fusion(teachers: Sequence[Teacher], catalog: Catalog, split: Split, study: Study) -> Fusion:
    """How far each teacher is to be believed: fitted on validation cases, which none of them has seen."""
    assert study.teacher is not None
    cases = baselines.sampled(split.valid, _FUSED_CASES)
    fused = fit_fusion(
        [teacher.fit(split.train) for teacher in teachers],
        queries_of(cases, study.split.protocol(split), catalog.profile_of),
        cases.targets,
        counts=split.train.item_counts(len(catalog.items)),
        users=cases.users,
        config=FusionFit(methods=("learned",), top=2 * study.teacher.items, seed=study.seed, device=study.train.device),
    )
    return fused.fusion


def generators(
    catalog: Catalog,
    split: Split,
    study: Study,
    sids: list[Path],
    lesson: Lesson | None,
    out: Path,
    searches: SearchData | None = None,
) -> list[Path]:
    """One ``model`` artifact for each table: ``model``, ``model-1``, …

    With ``searches`` they answer those, too; these then take the turns of imagined histories.
    """
    made = []
    for number, sid in enumerate(sids):
        target = out / ("model" if number == 0 else f"model-{number}")
        _generator(catalog, split, study, sid, lesson, target, searches)
        made.append(target)
    return made


def _generator(
    catalog: Catalog,
    split: Split,
    study: Study,
    sid: Path,
    lesson: Lesson | None,
    out: Path,
    searches: SearchData | None,
) -> None:
    table = SidTable.load(sid)
    users = np.flatnonzero(split.train.lengths)
    prompt = ItemPrompt.learn(
        len(catalog.items),
        table.space,
        (catalog.profile_of(int(user)) for user in users),
        window=study.trunk.window,
        sessions=study.sessions,
        queries=None if searches is None else searches.words,
    )
    recipe: dict[str, Any] = {"split": asdict(study.split), "tables": len(study.tables)}
    if searches is not None:
        recipe["searches"] = searches.config.share
    manifest = trunk_manifest(
        study.trunk, study.train, normalise=study.normalise, sessions=study.sessions, recipe=recipe
    )
    parents = {"catalog": catalog.digest, "sid": table.digest, "histories": split.train.digest}
    if lesson is not None:
        parents["teacher"] = lesson.soft.digest
    if searches is not None:
        parents["searches"] = searches.digest
    if is_current(out, kind="model", config=manifest, parents=parents):
        return
    turns = None if lesson is None else lesson.imagined
    if searches is not None:
        turns = searches.rows(split, prompt)
    result = train_trunk(
        table,
        split.train,
        out=out,
        model=study.trunk,
        train=study.train,
        prompt=prompt,
        profile_of=catalog.profile_of,
        normalise=study.normalise,
        soft=None if lesson is None else lesson.soft,
        turns=turns,
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
