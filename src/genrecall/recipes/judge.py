"""Judging a seed's bundle: all channels and their fusion under one protocol, and recall against the beam."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from genrecall import hardware
from genrecall.artifacts import open_artifact, write_artifact
from genrecall.bundle.load import Recommender
from genrecall.catalog.split import Cases, Split, refitted
from genrecall.catalog.store import Catalog
from genrecall.eval.beams import BeamPoint
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.harness import evaluate, queries_of
from genrecall.eval.lock import Final
from genrecall.eval.store import NAME, load, save
from genrecall.recall.channel import Channel
from genrecall.recall.fusion import FusedChannel, Fusion, FusionConfig, FusionFit, fit_fusion, recency
from genrecall.recall.memo import Remembered
from genrecall.recall.on_device import on_device
from genrecall.recipes import baselines
from genrecall.recipes.study import Study, remarks
from genrecall.telemetry import Stages
from genrecall.text.vectors import Vectors

DEPTH = 50
"""Length of the lists that are fused and judged."""
GENERATIVE = "generative"
CURVE_CASES = 4000
"""A curve costs as much as all its beams together, and its points are compared with each other."""
Part = Literal["valid", "final", "refit"]
_WEIGHTS, _REPORT = "fusion.safetensors", "report.json"
_BATCH = 1024


def judge(
    part: Part,
    catalog: Catalog,
    vectors: Vectors,
    split: Split,
    study: Study,
    out: Path,
    tuning: Path,
    watch: Stages,
    *,
    cases: int | None = None,
    beside: Sequence[str] = (),
) -> Evaluation:
    """The fused, the generative and all other channels of a seed; an earlier evaluation of the same bundle is kept.

    Args:
        part: "valid"; "final", which reads the test part; or "refit", which does with models that were trained on
            validation targets, too. The fusion is fitted on validation cases, so its figures there are only to be read
            beside ``fusion/report.json``, which has those of the half that it was chosen on.
        catalog, vectors: of the run.
        split: of the study.
        study: of this seed.
        out: directory of this seed.
        tuning: settings of the channels without training.
        watch: gets the stages' seconds.
        cases: at most so many, drawn by a fixed seed.
        beside: further baselines that are trained and judged but not fused, as ``baselines.trained`` names them.
    """
    home = out / "refit" if part == "refit" else out
    own = refitted(split) if part == "refit" else split
    digest = open_artifact(home / "bundle", kind="bundle", verify=False).digest
    done = _finished(out / part, digest, cases, beside)
    if done is not None:
        return done
    shop = Recommender.load(home / "bundle", device=study.train.device)
    label = "" if home == out else "refit "
    neural = []
    for name in ("sasrec", *beside):
        with watch.stage(label + name):
            neural.append(baselines.trained(name, catalog, vectors, own, study, home / name))
    counts = [
        on_device(channel, study.train.device)
        for channel in baselines.counted(catalog, vectors, own, baselines.chosen(tuning))
    ]
    channels: list[Channel] = [Remembered(channel, DEPTH) for channel in (shop.generative, *counts, neural[0])]
    with watch.stage(f"eval {part}"):
        fusion = _fusion(channels, catalog, own, study, out, cases, fit=part == "valid")
        evaluation = evaluate(
            [FusedChannel(channels, fusion), *channels, *neural[1:]],
            _drawn(split.valid if part == "valid" else split.test, cases),
            num_items=len(catalog.items),
            protocol=study.split.protocol(own, remarks=remarks(study)),
            train_counts=own.train.item_counts(len(catalog.items)),
            final=None if part == "valid" else _leave(part, catalog, study, out, digest),
            k=DEPTH,
            batch=_BATCH,
            profile=catalog.profile_of,
            log_scores=(GENERATIVE,) if len(study.tables) == 1 else (),
            groups=shop.table.sids[:, 0],
        ).with_invalid_sid_rate(GENERATIVE, shop.generative.invalid_sid_rate)
    (out / part).mkdir(exist_ok=True)
    save(evaluation, out / part / NAME, {"bundle": digest, "cases": cases, "machine": hardware.describe()})
    return evaluation


def _fusion(
    channels: Sequence[Channel],
    catalog: Catalog,
    split: Split,
    study: Study,
    out: Path,
    cases: int | None,
    *,
    fit: bool,
) -> Fusion:
    """Fitted and chosen on validation cases, or read back; what it knows of items is the split's."""
    target = out / "fusion"
    if fit:
        asked = _drawn(split.valid, cases)
        fused = fit_fusion(
            channels,
            queries_of(asked, study.split.protocol(split), catalog.profile_of),
            asked.targets,
            counts=split.train.item_counts(len(catalog.items)),
            users=asked.users,
            facts=recency(split.train, len(catalog.items)),
            config=FusionFit(top=DEPTH, seed=study.seed, device=study.train.device),
        )
        parents = {"bundle": open_artifact(out / "bundle", kind="bundle", verify=False).digest}
        with write_artifact(target, kind="fusion", config=asdict(fused.config), parents=parents) as writer:
            save_file(
                {name: np.ascontiguousarray(array) for name, array in fused.state().items()}, writer.path / _WEIGHTS
            )
            (writer.path / _REPORT).write_text(json.dumps(fused.fusion.report, indent=2) + "\n", encoding="utf-8")
    stored = open_artifact(target, kind="fusion")
    fusion = Fusion.from_state(load_file(stored.file(_WEIGHTS)), FusionConfig(**stored.manifest.config))
    return fusion.after(split.train, len(catalog.items))


def beam_curve(
    part: Part, catalog: Catalog, split: Split, study: Study, out: Path, beams: Sequence[int], cases: int | None
) -> list[BeamPoint]:
    """Recall of the generative channel at each width, of lists as long as the beam; at most ``CURVE_CASES`` cases."""
    asked = _drawn(split.valid if part == "valid" else split.test, min(cases or CURVE_CASES, CURVE_CASES))
    protocol = study.split.protocol(split)
    bundle = open_artifact(out / "bundle", kind="bundle", verify=False)
    told = {"bundle": bundle.digest, "beams": list(beams), "cases": len(asked)}
    file = out / f"beams-{part}.json"
    if file.is_file() and (before := json.loads(file.read_text(encoding="utf-8")))["of"] == told:
        return [BeamPoint(**point) for point in before["points"]]
    leave = None if part == "valid" else _leave("beams", catalog, study, out, bundle.digest)
    queries = queries_of(asked, protocol, catalog.profile_of, final=leave)
    points = []
    for beam in beams:
        shop = Recommender.load(bundle.path, device=study.train.device, beam=beam)
        hits, watch = np.zeros(beam), Stages()
        with watch.stage(f"beam {beam}"):
            for begin in range(0, len(queries), _BATCH):
                found = shop.generative.recall(queries[begin : begin + _BATCH], beam)
                hits += (found.items == asked.targets[begin : begin + _BATCH, None]).sum(0)
        metrics = {f"recall@{k}": float(hits[:k].sum() / len(queries)) for k in (10, 50, 300) if k <= max(beams)}
        seconds = 1000 * watch.seconds[f"beam {beam}"] / len(queries)
        points.append(BeamPoint(beam=beam, metrics=metrics, seconds=seconds))
    file.write_text(json.dumps({"of": told, "points": [asdict(point) for point in points]}, indent=2) + "\n", "utf-8")
    return points


def _leave(purpose: str, catalog: Catalog, study: Study, out: Path, bundle: str) -> Final:
    told = f"genrecall run, {study.name}, seed {study.seed}, {purpose}"
    return Final(run=out, purpose=told, bundle=bundle, catalog=catalog.digest)


def _drawn(cases: Cases, count: int | None) -> Cases:
    if count is None or count >= len(cases):
        return cases
    return cases.subset(np.sort(np.random.default_rng(0).permutation(len(cases))[:count]))


def _finished(directory: Path, digest: str, cases: int | None, beside: Sequence[str]) -> Evaluation | None:
    """The evaluation that an earlier call made of the same bundle and these baselines; None where there is none."""
    if not (directory / NAME).is_file():
        return None
    evaluation, told = load(directory)
    same = told["bundle"] == digest and told["cases"] == cases
    return evaluation if same and set(beside) <= set(evaluation.results) else None
