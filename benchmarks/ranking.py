"""What joint ranking is worth: fusion only, sparse only, dense only, joint, on the same candidates, several seeds.

    python benchmarks/ranking.py --run RUN --recipe movielens_100k --out OUT --seeds 0,1,2

RUN holds catalog/, vectors/ and tuning/ as `genrecall run` prepares them. Each seed makes a SID table and a small item
trunk without teachers (so that two CPU cores are enough; --generator N lets all seeds' rankers share that of seed N),
fuses it with the counted and text channels, and fits rankers on validation cases; the fusion's value that they read
there comes from the other half of the users. The test part is read once a generator.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from genrecall.rank.fit import FitConfig
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Channel
from genrecall.recall.fusion import FusedChannel, Fusion, FusionFit, fit_fusion
from genrecall.recall.fusion.fit import halves
from genrecall.recall.fusion.learned import LearnedConfig
from genrecall.recall.memo import Remembered
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
        watch, out = Stages(), options.out / f"seed-{generator}"
        whole = study_of(named, catalog, small=True, device=options.device).seeded(generator)
        study = _small(whole, options.steps, catalog)
        make(catalog, vectors, study.split.divide(catalog), study, out, options.run / "tuning", watch)
        with watch.stage("fusion"):
            shop = _shop(catalog, vectors, study, out, options)
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
            told = Final(run=out, purpose=f"benchmarks/ranking.py, generator {generator}")
            lists = out / "rank-eval" / "test.parquet"
            found, points = judge_rankers(shop, rankers, asked, lists, k=DEPTH, final=told, remarks=_remarks(options))
        for seed in own:
            evaluations.append(_of_seed(found, seed))
            pointwise.append({name.partition("@")[0]: row for name, row in points.items() if name.endswith(f"@{seed}")})
        seconds[str(generator)] = {name: round(value, 1) for name, value in watch.seconds.items()}
    merged = merge(evaluations, [f"seed {seed}" for seed in seeds])
    result = _figures(merged, pointwise, seconds, options)
    target = options.results / f"{options.recipe}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(_table(result))


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


def _shop(catalog: Catalog, vectors: Vectors, study: Study, out: Path, options: argparse.Namespace) -> Shop:
    """The seed's bundle with all channels, and fusions that were fitted on validation."""
    bundle = Recommender.load(out / "bundle", device=options.device)
    split = study.split.divide(catalog)
    counted = baselines.counted(catalog, vectors, split, baselines.chosen(options.run / "tuning"))
    channels: dict[str, Channel] = {
        channel.name: Remembered(channel, DEPTH) for channel in (bundle.generative, *counted)
    }
    cases = sampled(split.valid, options.cases)

    def fitted(part: Cases) -> Fusion:
        fused: FusedChannel = fit_fusion(
            list(channels.values()),
            queries_of(part, study.split.protocol(split), catalog.profile_of),
            part.targets,
            counts=split.train.item_counts(len(catalog.items)),
            users=part.users,
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
        parents=dict(open_artifact(out / "bundle", kind="bundle", verify=False).manifest.parents),
        halves=Halves(second=np.unique(cases.users[second]), fusions=both),
    )


def _remarks(options: argparse.Namespace) -> tuple[str, ...]:
    return (
        f"fusion and rankers were fitted on at most {options.cases:,} validation cases, the rankers' epochs chosen on "
        "a fifth of their users; at most as many test cases, drawn by a fixed seed; "
        f"one small generator without teachers, {options.steps} steps",
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
    parser.add_argument("--run", type=Path, required=True, help="prepared catalog, vectors and tuning; only read")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/rank"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=250, help="of the generator's training")
    parser.add_argument("--warm", type=int, default=30_000, help="training events that the tables are warmed up on")
    parser.add_argument("--epochs", type=int, default=8, help="of a ranker, at most")
    parser.add_argument("--generator", type=int, help="let all seeds' rankers share this seed's generator")
    parser.add_argument("--blocks", type=lambda told: told.split(","), default=list(BLOCKS))
    parser.add_argument("--device", default="cpu")
    found = parser.parse_args()
    log(f"{found.recipe}: seeds {found.seeds}")
    return found


if __name__ == "__main__":
    main()
