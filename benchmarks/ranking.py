"""What joint ranking is worth: fusion only, sparse only, dense only, joint, on the same candidates, several seeds.

    python benchmarks/ranking.py --run RUN --recipe movielens_100k --out OUT --seeds 0,1,2 --device cuda

RUN is a directory of `genrecall run --recipe …`. Where it holds seed-N/bundle, that seed's generators and its SASRec
are taken as they are; nothing is written into RUN. Where it holds catalog/, vectors/ and tuning/ alone, each seed makes
a SID table and a small item trunk without teachers in OUT (so that two CPU cores are enough). --generator N lets all
seeds' rankers share that of seed N. Generators are fused with the counted and text channels, and rankers are fitted on
validation cases; the fusion's value that they read there comes from the other half of the users. The test part is read
once a generator. Every stage is kept in OUT: a run that was stopped goes on, and a seed that was judged is not opened.
So seeds may run side by side, one process and --results each; the command with all of them then only joins the tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from genrecall import hardware
from genrecall.artifacts import open_artifact
from genrecall.bundle.load import Recommender
from genrecall.catalog.split import Cases
from genrecall.catalog.store import Catalog
from genrecall.eval.comparisons import compare
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.harness import queries_of
from genrecall.eval.lock import Final
from genrecall.eval.seeds import merge
from genrecall.eval.store import NAME, load, save
from genrecall.rank.fit import FitConfig
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Channel
from genrecall.recall.fusion import FusedChannel, Fusion, FusionFit, fit_fusion, recency
from genrecall.recall.fusion.fit import halves
from genrecall.recall.fusion.learned import LearnedConfig
from genrecall.recall.memo import Remembered
from genrecall.recall.on_device import on_device
from genrecall.recall.sasrec import SasrecChannel
from genrecall.recipes import baselines
from genrecall.recipes.named import Named, resolve, study_of
from genrecall.recipes.rank_eval import FUSION_ONLY, judge_rankers
from genrecall.recipes.rank_lists import Halves, Shop, sampled
from genrecall.recipes.ranking import BLOCKS, RankRecipe, train_ranker
from genrecall.recipes.run import make
from genrecall.recipes.study import Study
from genrecall.telemetry import Stages, log
from genrecall.text.vectors import Vectors

DEPTH = 100
_JUDGED = ("recipe", "cases", "steps", "warm", "epochs", "blocks", "generator")
"""Options that an earlier evaluation must have had, too."""


def main() -> None:
    """Run all seeds, print the table, write the figures."""
    options = _options()
    catalog, vectors = Catalog.load(options.run / "catalog"), Vectors.load(options.run / "vectors")
    named: Named = resolve(options.recipe, None, {}, options.run)
    evaluations: list[Evaluation] = []
    pointwise: list[Mapping[str, Mapping[str, float]]] = []
    seconds: dict[str, dict[str, float]] = {}
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for generator in sorted({seed if options.generator is None else options.generator for seed in seeds}):
        own = [seed for seed in seeds if options.generator is not None or seed == generator]
        found, points, seconds[str(generator)] = _generator(catalog, vectors, named, generator, own, options)
        for seed in own:
            evaluations.append(_of_seed(found, seed))
            pointwise.append({name.partition("@")[0]: row for name, row in points.items() if name.endswith(f"@{seed}")})
    merged = merge(evaluations, [f"seed {seed}" for seed in seeds])
    result = _figures(merged, pointwise, seconds, options)
    target = options.results / f"{options.recipe}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(_table(result))


def _generator(
    catalog: Catalog, vectors: Vectors, named: Named, generator: int, own: list[int], options: argparse.Namespace
) -> tuple[Evaluation, Mapping[str, Mapping[str, float]], dict[str, float]]:
    """One generator's rankers of the seeds ``own``, judged: the evaluation, pointwise figures, seconds by stage."""
    watch, out, home = Stages(), options.out / f"seed-{generator}", options.run / f"seed-{generator}"
    finished = (home / "bundle").is_dir()
    whole = study_of(named, catalog, small=None if finished else True, device=options.device).seeded(generator)
    study = whole if finished else _small(whole, options.steps, catalog)
    if not finished:
        home = out
        make(catalog, vectors, study.split.divide(catalog), study, out, options.run / "tuning", watch)
    asked_of = {name: value for name, value in vars(options).items() if name in _JUDGED}
    told = json.loads(json.dumps({**asked_of, "own": own, "bundle": open_artifact(home / "bundle").digest}))
    if (out / "judged" / NAME).is_file():
        found, before = load(out / "judged")
        if before["of"] == told:
            log(f"generator {generator}: judged before")
            return found, before["pointwise"], before["seconds"]
    with watch.stage("fusion"):
        shop = _shop(catalog, vectors, study, home, options)
    rankers = {}
    for seed in own:
        for blocks in options.blocks:
            recipe = RankRecipe(
                blocks=blocks,
                candidates=DEPTH,
                cases=options.cases,
                warm_events=options.warm,
                fit=FitConfig(seed=seed, device=options.device, epochs=options.epochs),
            )
            with watch.stage(f"rank {blocks} {seed}"):
                path = out / f"ranker-{blocks}-{seed}"
                train_ranker(shop, vectors, recipe, path, out / "rank-lists")
            rankers[f"{blocks}@{seed}"] = Ranker.load(path, device=options.device)
    with watch.stage("test"):
        asked = sampled(shop.split.test, options.cases)
        leave = Final(run=out, purpose=f"benchmarks/ranking.py, generator {generator}")
        lists, remarks = out / "rank-eval" / "test.parquet", _remarks(_kind(finished, options), options)
        found, points = judge_rankers(shop, rankers, asked, lists, k=DEPTH, final=leave, remarks=remarks)
    seconds = {name: round(value, 1) for name, value in watch.seconds.items()}
    (out / "judged").mkdir(exist_ok=True)
    save(found, out / "judged" / NAME, {"of": told, "pointwise": points, "seconds": seconds})
    return found, points, seconds


def _of_seed(found: Evaluation, seed: int) -> Evaluation:
    """One seed's part of an evaluation of several seeds' rankers."""
    results = {FUSION_ONLY: found.results[FUSION_ONLY]}
    for name, result in found.results.items():
        block, _, own = name.partition("@")
        if own == str(seed):
            results[block] = replace(result, name=block)
    return replace(found, results=results)


def _small(study: Study, steps: int, catalog: Catalog) -> Study:
    """One table, no teachers, so many steps."""
    events = len(study.split.divide(catalog).train.items)
    epochs = float(np.clip(steps * 0.7 * study.train.batch_tokens / events, 1, 300))
    settings = replace(study, tables=study.tables[:1], teacher=None, imagined=None, validation_cases=1000)
    return replace(settings, train=replace(settings.train, epochs=epochs, eval_every=max(epochs / 4, 1.0)))


def _shop(catalog: Catalog, vectors: Vectors, study: Study, home: Path, options: argparse.Namespace) -> Shop:
    """The seed's bundle with all channels, and fusions that were fitted on validation."""
    bundle = Recommender.load(home / "bundle", device=options.device)
    split = study.split.divide(catalog)
    counted = baselines.counted(catalog, vectors, split, baselines.chosen(options.run / "tuning"))
    every: list[Channel] = [bundle.generative, *(on_device(channel, options.device) for channel in counted)]
    if (home / "sasrec").is_dir():
        every.append(_sasrec(home / "sasrec", study))
    channels: dict[str, Channel] = {channel.name: Remembered(channel, DEPTH) for channel in every}
    cases = sampled(split.valid, options.cases)

    def fitted(part: Cases) -> Fusion:
        fused: FusedChannel = fit_fusion(
            list(channels.values()),
            queries_of(part, study.split.protocol(split), catalog.profile_of),
            part.targets,
            counts=split.train.item_counts(len(catalog.items)),
            users=part.users,
            facts=recency(split.train, len(catalog.items)),
            config=FusionFit(
                methods=("learned",), top=DEPTH, learned=(LearnedConfig(hidden=0, members=1),), seed=study.seed
            ),
        )
        return fused.fusion

    first, second = halves(cases.users, study.seed)
    both = (fitted(cases.subset(second)), fitted(cases.subset(first)))
    fusion = fitted(cases)
    return Shop(
        bundle=bundle,
        catalog=catalog,
        split=split,
        config=study.split,
        fusion=fusion,
        channels={name: channels[name] for name in fusion.config.channels},
        parents=dict(open_artifact(home / "bundle", kind="bundle", verify=False).manifest.parents),
        halves=Halves(second=np.unique(cases.users[second]), fusions=both),
    )


def _sasrec(path: Path, study: Study) -> Channel:
    """As the run has trained it."""
    artifact = open_artifact(path, kind="channel")
    (file,) = artifact.path.glob("*.safetensors")
    return SasrecChannel.from_state(load_file(file), study.sasrec, device=study.train.device)


def _kind(finished: bool, options: argparse.Namespace) -> str:
    return "the run's own generators" if finished else f"one small generator without teachers, {options.steps} steps"


def _remarks(kind: str, options: argparse.Namespace) -> tuple[str, ...]:
    return (
        f"fusion and rankers were fitted on at most {options.cases:,} validation cases, the rankers' epochs chosen on "
        "a fifth of their users; at most as many test cases, drawn by a fixed seed",
        kind,
    )


def _figures(
    merged: Evaluation, pointwise: list[Mapping[str, Mapping[str, float]]], seconds: Any, options: argparse.Namespace
) -> dict[str, Any]:
    comparisons = []
    for first in [name for name in ("joint", "joint+recall") if name in merged.results]:
        comparisons += [asdict(row) for row in compare(merged, first, ["ndcg@10"])]
    means = {
        name: {metric: float(np.mean([run[name][metric] for run in pointwise])) for metric in values}
        for name, values in pointwise[0].items()
    }
    return {
        "command": f"benchmarks/ranking.py --recipe {options.recipe} --seeds {options.seeds} --cases {options.cases} "
        f"--steps {options.steps} --warm {options.warm} --epochs {options.epochs}"
        + ("" if options.generator is None else f" --generator {options.generator}"),
        "sentence": merged.sentence(),
        "metrics": merged.to_dict()["metrics"],
        "pointwise": means,
        "comparisons": comparisons,
        "seconds": seconds,
        "machine": hardware.describe(),
    }


def _table(result: Mapping[str, Any]) -> str:
    lines = [
        result["sentence"],
        "",
        "| ranker | NDCG@10 | sd | R@10 | AUC | GAUC | LogLoss |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, metrics in result["metrics"].items():
        point = result["pointwise"].get(name, {})
        told = [f"{point[metric]:.4f}" if metric in point else "" for metric in ("auc", "gauc", "logloss")]
        ndcg, recall = metrics["ndcg@10"], metrics["recall@10"]
        spread = f"{ndcg['sd']:.4f}" if "sd" in ndcg else ""
        lines.append(f"| {name} | {ndcg['mean']:.4f} | {spread} | {recall['mean']:.4f} | {' | '.join(told)} |")
    lines += ["", "| first − second | NDCG@10 | 95% | p (Holm) |", "|---|---|---|---|"]
    for row in result["comparisons"]:
        found = row["difference"]["interval"]
        lines.append(
            f"| {row['first']} − {row['second']} | {found['mean']:+.4f} | {found['low']:+.4f} … {found['high']:+.4f} | "
            f"{row['adjusted']:.4f} |"
        )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="finished or prepared; only read")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/rank"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=250, help="of a generator that is trained here")
    parser.add_argument("--warm", type=int, default=30_000, help="training events that the tables are warmed up on")
    parser.add_argument("--epochs", type=int, default=12, help="of a ranker, at most")
    parser.add_argument("--generator", type=int, help="let all seeds' rankers share this seed's generator")
    parser.add_argument("--blocks", type=lambda told: told.split(","), default=list(BLOCKS))
    parser.add_argument("--device", default="cpu")
    found = parser.parse_args()
    log(f"{found.recipe}: seeds {found.seeds}")
    return found


if __name__ == "__main__":
    main()
