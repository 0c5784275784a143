"""Judging a seed's bundle: all channels and their fusion under one protocol, and recall against the beam."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genrecall import hardware
from genrecall.artifacts import open_artifact
from genrecall.bundle.load import Recommender
from genrecall.catalog.split import Cases, Split
from genrecall.catalog.store import Catalog
from genrecall.eval.beams import BeamPoint
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.harness import evaluate, queries_of
from genrecall.eval.lock import Final
from genrecall.eval.store import NAME, load, save
from genrecall.recall.channel import Channel
from genrecall.recall.ensemble import EnsembleChannel
from genrecall.recall.fusion import FusedChannel, FusionFit, fit_fusion
from genrecall.recall.memo import Remembered
from genrecall.recipes import baselines
from genrecall.recipes.study import Study, remarks
from genrecall.telemetry import Stages
from genrecall.text.vectors import Vectors

DEPTH = 50
"""Length of the lists that are fused and judged."""
GENERATIVE = "generative"
_BATCH = 1024


def judge(
    catalog: Catalog,
    vectors: Vectors,
    split: Split,
    study: Study,
    directory: Path,
    out: Path,
    bundle: Path,
    watch: Stages,
    *,
    final: bool,
    cases: int | None,
) -> dict[str, Evaluation]:
    """``valid`` and, where asked for, ``final``: the fused, the generative and all other channels of one seed.

    The fusion is fitted on validation cases, so its figures there are only to be read beside ``fusion.json``, which has
    those of the half that it was chosen on.
    """
    digest = open_artifact(bundle, kind="bundle", verify=False).digest
    wanted = ["valid", *(["final"] if final else [])]
    done = {part: _finished(directory / part, digest, cases) for part in wanted}
    if all(done.values()):
        return {part: evaluation for part, evaluation in done.items() if evaluation is not None}
    shop = Recommender.load(bundle, device=study.train.device)
    with watch.stage("sasrec"):
        neural = baselines.sasrec(catalog, split, study, directory / "sasrec")
    channels: list[Channel] = [
        Remembered(shop.generative, DEPTH),
        *(Remembered(c, DEPTH) for c in baselines.counted(catalog, vectors, split, study, out / "tuning").values()),
        Remembered(neural, DEPTH),
    ]
    found = {}
    for part in wanted:
        asked = _drawn(split.valid if part == "valid" else split.test, cases)
        leave = None
        if part == "final":
            purpose = f"genrecall run, {study.name}, seed {study.seed}"
            leave = Final(run=directory, purpose=purpose, bundle=digest, catalog=catalog.digest)
        with watch.stage(f"eval {part}"):
            if part == "valid":
                channels.append(_fused(channels, catalog, split, study, asked, directory))
            evaluation = evaluate(
                [channels[-1], *channels[:-1]],
                asked,
                num_items=len(catalog.items),
                protocol=study.split.protocol(split, remarks=remarks(study)),
                train_counts=split.train.item_counts(len(catalog.items)),
                final=leave,
                k=DEPTH,
                profile=catalog.profile_of,
                log_scores=() if isinstance(shop.generative, EnsembleChannel) else (GENERATIVE,),
                groups=shop.table.sids[:, 0],
            ).with_invalid_sid_rate(GENERATIVE, shop.generative.invalid_sid_rate)
        (directory / part).mkdir(exist_ok=True)
        save(evaluation, directory / part / NAME, {"bundle": digest, "cases": cases, "machine": hardware.describe()})
        found[part] = evaluation
    return found


def _fused(
    channels: Sequence[Channel], catalog: Catalog, split: Split, study: Study, cases: Cases, directory: Path
) -> FusedChannel:
    """The fusion, fitted and chosen on validation cases."""
    queries = queries_of(cases, study.split.protocol(split), catalog.profile_of)
    fused = fit_fusion(
        channels,
        queries,
        cases.targets,
        counts=split.train.item_counts(len(catalog.items)),
        users=cases.users,
        config=FusionFit(top=DEPTH, seed=study.seed),
    )
    (directory / "fusion.json").write_text(json.dumps(fused.fusion.report, indent=2) + "\n", encoding="utf-8")
    return fused


def beam_curve(
    catalog: Catalog, split: Split, study: Study, bundle: Path, beams: Sequence[int], cases: int | None
) -> list[BeamPoint]:
    """Recall of the generative channel at each width, on validation cases; lists are as long as the beam."""
    asked = _drawn(split.valid, cases)
    queries = queries_of(asked, study.split.protocol(split), catalog.profile_of)
    points = []
    for beam in beams:
        shop = Recommender.load(bundle, device=study.train.device, beam=beam)
        hits, watch = np.zeros(beam), Stages()
        with watch.stage("recall"):
            for begin in range(0, len(queries), _BATCH):
                found = shop.generative.recall(queries[begin : begin + _BATCH], beam)
                hits += (found.items == asked.targets[begin : begin + _BATCH, None]).sum(0)
        metrics = {f"recall@{k}": float(hits[:k].sum() / len(queries)) for k in (10, 50, 300) if k <= max(beams)}
        points.append(BeamPoint(beam=beam, metrics=metrics, seconds=1000 * watch.seconds["recall"] / len(queries)))
    return points


def _drawn(cases: Cases, count: int | None) -> Cases:
    if count is None or count >= len(cases):
        return cases
    return cases.subset(np.sort(np.random.default_rng(0).permutation(len(cases))[:count]))


def _finished(directory: Path, digest: str, cases: int | None) -> Evaluation | None:
    """The evaluation that an earlier call made of the same bundle; None where there is none."""
    if not (directory / NAME).is_file():
        return None
    evaluation, told = load(directory)
    return evaluation if told["bundle"] == digest and told["cases"] == cases else None
