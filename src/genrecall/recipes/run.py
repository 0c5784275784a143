"""`genrecall run`: from files to judged bundles, over several seeds.

    files ──▶ catalog ──▶ vectors ──▶ (a seed) SID tables ──▶ teacher ──▶ generators ──▶ bundle
                                                             all channels' lists ◀──┘
                                                             └─▶ fusion, on validation ──▶ tables

Every stage is an artifact in the run's directory and is done once; a killed run goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genrecall import hardware
from genrecall.artifacts import open_artifact
from genrecall.bundle.channels import ClassicConfig
from genrecall.bundle.export import BundleConfig, export_bundle
from genrecall.catalog.split import Split, refitted
from genrecall.catalog.store import Catalog, import_catalog
from genrecall.errors import ArtifactError, DataError
from genrecall.eval.beams import BeamPoint, beam_section
from genrecall.eval.costs import Cost, training_section
from genrecall.eval.document import Report, Section
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.report import evaluation_report
from genrecall.eval.seeds import merge
from genrecall.recall.basket import BasketConfig
from genrecall.recall.item_cf import ItemCfConfig
from genrecall.recall.linear import LinearConfig
from genrecall.recall.popularity import PopularityConfig
from genrecall.recall.transition import TransitionConfig
from genrecall.recipes import baselines, generators
from genrecall.recipes.judge import CURVE_CASES, GENERATIVE, Part, beam_curve, judge
from genrecall.recipes.named import Named
from genrecall.recipes.preference import preferred
from genrecall.recipes.recipe import SplitConfig
from genrecall.recipes.study import Study, remarks, split_of
from genrecall.telemetry import Stages, log
from genrecall.text.embed import embed_catalog, is_of_texts
from genrecall.text.encoder import PACKAGED
from genrecall.text.precomputed import GIVEN
from genrecall.text.vectors import Vectors


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves.

    Attributes:
        valid: on validation cases, all seeds.
        final: on test cases; None where they were not asked.
        refit: the same of models that were trained on validation targets, too; None where none were.
        page: tables and charts.
        seconds: by seed and stage, of this call.
    """

    valid: Evaluation
    final: Evaluation | None
    refit: Evaluation | None
    page: Report
    seconds: dict[str, dict[str, float]]


def prepare(named: Named, out: Path) -> tuple[Catalog, Vectors]:
    """Import and embed; vectors that belong to the catalog are taken as they are, so that no encoder is needed then.

    Vectors of other texts are made again by the same encoder; those made elsewhere stay as long as the items do.

    Raises:
        DataError: too few cases to choose settings by.
        ArtifactError: vectors made elsewhere for other items, or of other texts by an encoder of the user's own.
    """
    if named.source is None:
        catalog = Catalog.load(out / "catalog")
    else:
        catalog = import_catalog(named.source, out / "catalog", named.config)
    _require_cases(catalog, named.split or split_of(catalog))
    encoder, place = named.encoder, out / "vectors"
    try:
        vectors = Vectors.load(place)
    except ArtifactError:
        log("no vectors yet")
    else:
        encoder = vectors.identity["name"]
        if encoder == GIVEN:
            vectors.require_items(catalog.items.ids)
        if encoder == GIVEN or is_of_texts(place, catalog):
            return catalog, vectors
        if encoder not in PACKAGED:
            raise ArtifactError(
                f"the vectors in {place} are of other texts than the catalog's",
                seen=f"made by {encoder}, from a directory that a run does not know",
                allowed="vectors of these texts",
                fix=f"make them again: genrecall embed -r {out} --encoder DIRECTORY, then run again",
            )
    return catalog, embed_catalog(catalog, out=place, encoder=encoder, template=named.fields)


def _require_cases(catalog: Catalog, rules: SplitConfig) -> None:
    """Refuse before anything is embedded what no channel could be tuned on."""
    catalog.require_events("a study")
    split = rules.divide(catalog)
    if len(split.valid) < 2:
        raise DataError(
            "these events leave too little to choose settings by",
            seen=f"{len(split.valid)} validation cases in {len(catalog.events):,} events ({split.rule})",
            allowed="at least two",
            fix="give events of more users, or longer histories; exposures and queries do not count",
        )


def run(
    catalog: Catalog,
    vectors: Vectors,
    study: Study,
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    final: bool = False,
    refit_too: bool = False,
    cases: int | None = None,
    beams: Sequence[int] = (),
    beside: Sequence[str] = (),
) -> Outcome:
    """All stages of all seeds, then the tables.

    Args:
        catalog: with events.
        vectors: of its items.
        study: settings.
        out: directory.
        seeds: each makes SIDs, teacher, generators and SASRec anew.
        final: read the test part, once a seed; it is recorded.
        refit_too: train once more on training and validation events, and read the test part with that, too.
        cases: judge at most so many cases of a part, drawn by a fixed seed.
        beams: widths for the curve of recall against beam: test cases with ``final``, else validation; first seed.
        beside: baselines that are trained and judged but not fused: hstu, two_tower.
    """
    baselines.require_known(beside)
    split = study.split.divide(catalog)
    seconds: dict[str, dict[str, float]] = {}
    found: dict[str, list[Evaluation]] = {}
    points: list[BeamPoint] = []
    tuning = out / "tuning"
    for seed in seeds:
        watch, seeded, directory = Stages(), study.seeded(seed), out / f"seed-{seed}"
        make(catalog, vectors, split, seeded, directory, tuning, watch)
        parts: list[Part] = ["valid"]
        parts += ["final"] if final else []
        parts += ["refit"] if refit_too else []
        judged = {}
        for part in parts:
            if part == "refit":
                seeded = refit(catalog, vectors, split, seeded, directory, tuning, watch)
            judged[part] = judge(
                part, catalog, vectors, split, seeded, directory, tuning, watch, cases=cases, beside=beside
            )
        for part, evaluation in judged.items():
            found.setdefault(part, []).append(evaluation)
        if beams and not points:
            with watch.stage("beams"):
                points = beam_curve("final" if final else "valid", catalog, split, seeded, directory, beams, cases)
        seconds[str(seed)] = {name: round(value, 1) for name, value in watch.seconds.items()}
        _remember_seconds(directory, watch)
    names = [f"seed {seed}" for seed in seeds]
    merged = {part: merge(evaluations, names) for part, evaluations in found.items()}
    valid, tested, again = merged["valid"], merged.get("final"), merged.get("refit")
    shown = tested or valid
    page = evaluation_report(
        shown,
        title=f"{study.name}: {'final test' if tested else 'validation'}",
        channel=GENERATIVE,
        costs=_costs(out / f"seed-{seeds[0]}"),
        extra=_sections(out / f"seed-{seeds[0]}", points, shown),
        footer=f"seeds {', '.join(map(str, seeds))}",
    )
    (out / "report.md").write_text(page.to_markdown(), encoding="utf-8")
    (out / "report.html").write_text(page.to_html(), encoding="utf-8")
    (out / "report.json").write_text(
        json.dumps(_figures(study, seeds, merged, out, points), indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    return Outcome(valid=valid, final=tested, refit=again, page=page, seconds=seconds)


def make(
    catalog: Catalog, vectors: Vectors, split: Split, study: Study, out: Path, tuning: Path, watch: Stages
) -> None:
    """One seed's bundle: its generators and the tuned counts."""
    with watch.stage("tuning"):
        baselines.tune(catalog, vectors, split, study, tuning)
    with watch.stage("sid"):
        sids = generators.tables(catalog, vectors, split, study, out)
    _train(catalog, vectors, split, study, sids, out, tuning, watch, "")


def refit(
    catalog: Catalog, vectors: Vectors, split: Split, study: Study, out: Path, tuning: Path, watch: Stages
) -> Study:
    """The same once more with the validation targets among the training events; returns the study that it followed.

    SIDs stay; every model trains as many epochs as were best before, and nothing is chosen any more.
    """
    sids = [out / ("sid" if number == 0 else f"sid-{number}") for number in range(len(study.tables))]
    models = [open_artifact(out / sid.name.replace("sid", "model"), kind="model", verify=False) for sid in sids]
    best = max(model.manifest.facts["best_epoch"] or study.train.epochs for model in models)
    neural = open_artifact(out / "sasrec", kind="channel", verify=False).manifest.facts["best_epoch"]
    again = study.lasting(best, neural or study.sasrec.train.epochs)
    _train(catalog, vectors, refitted(split), again, sids, out / "refit", tuning, watch, "refit ")
    return again


def _train(
    catalog: Catalog,
    vectors: Vectors,
    split: Split,
    study: Study,
    sids: list[Path],
    out: Path,
    tuning: Path,
    watch: Stages,
    label: str,
) -> None:
    chosen = baselines.chosen(tuning)
    with watch.stage(f"{label}teacher"):
        lesson = generators.teacher(catalog, vectors, split, study, chosen, out / "teacher")
    with watch.stage(f"{label}train"):
        models = generators.generators(catalog, split, study, sids, lesson, out)
    if study.preference is not None:
        with watch.stage(f"{label}preference"):
            models = [
                preferred(catalog, split, study, sid, model, out / f"{model.name}-preferred", study.preference)
                for sid, model in zip(sids, models, strict=True)
            ]
    hardware.release_cached()
    with watch.stage(f"{label}export"):
        config = BundleConfig(
            generative=study.generative,
            channels=ClassicConfig(
                popularity=PopularityConfig(**chosen["popularity"]),
                item_cf=ItemCfConfig(**chosen["item_cf"]),
                transition=TransitionConfig(**chosen["transition"]),
                basket=BasketConfig(**chosen["basket"]) if "basket" in chosen else None,
                linear=LinearConfig(**chosen["linear"]) if "linear" in chosen else None,
            ),
            split=asdict(study.split),
            remarks=remarks(study),
        )
        export_bundle(catalog, split.train, sid=sids, model=models, out=out / "bundle", config=config)


def _remember_seconds(directory: Path, watch: Stages) -> None:
    """Stage times of all calls: a stage that was skipped keeps what it took when it ran."""
    file = directory / "seconds.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    spent = {name: max(round(value, 1), before.get(name, 0.0)) for name, value in watch.seconds.items()}
    file.write_text(json.dumps({**before, **spent}, indent=2) + "\n", encoding="utf-8")


def _costs(directory: Path) -> dict[str, Cost]:
    model = directory / "model"
    return {GENERATIVE: Cost.of_model(model, open_artifact(model, kind="model", verify=False).manifest.facts)}


def _sections(directory: Path, points: Sequence[BeamPoint], evaluation: Evaluation) -> list[Section]:
    model = directory / "model"
    facts = open_artifact(model, kind="model", verify=False).manifest.facts
    sections = [training_section(model / "metrics.jsonl", facts)]
    rules = f"Of these at most {CURVE_CASES:,} cases: {evaluation.sentence()}"
    return [*sections, beam_section(points, rules)] if points else sections


def _figures(
    study: Study, seeds: Sequence[int], found: Mapping[str, Evaluation], out: Path, points: Sequence[BeamPoint]
) -> dict[str, Any]:
    directories = {str(seed): out / f"seed-{seed}" for seed in seeds}
    return {
        "study": study.facts(),
        "seeds": list(seeds),
        "machine": hardware.describe(),
        "seconds": {
            seed: json.loads((directory / "seconds.json").read_text(encoding="utf-8"))
            for seed, directory in directories.items()
        },
        "beams": [asdict(point) for point in points],
        **{part: evaluation.to_dict() for part, evaluation in found.items()},
    }
