"""Search and recommendation in one bundle: what searches gain a model, and what they cost its recommendations.

    python benchmarks/search.py --run DIR --searches DIR --vectors DIR --out FILE.json [--final]

DIR of ``--run`` holds a catalog with queries, its vectors, ``tuning`` and, where there are some, teachers of a
`genrecall run`; ``--searches`` is what ``recipes.search.prepare_search`` wrote (it is made where it is not there, which
needs the text encoder) from ``--vectors``: of texts that evaluation allows. The generators of the default study are
trained with a fifth of their targets being searches made up from titles; no query of the evaluation is trained on.
Figures beside BM25 and vectors of texts, by tiers of query frequency; of validation queries and up to 4,000 cases, or
with ``--final`` of test queries and cases.

Columns that evaluation queries were derived from (Beauty's categories) are best left out of the items' file: SIDs then
do not know them either, and the run's own vectors serve as ``--vectors``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from genrecall import hardware
from genrecall.bundle.export import export_bundle
from genrecall.bundle.load import Recommender
from genrecall.catalog.store import Catalog
from genrecall.eval.harness import evaluate
from genrecall.eval.lock import Final
from genrecall.recall.search_teacher import SearchTeacherConfig
from genrecall.recipes import baselines, generators, named
from genrecall.recipes.search import judge_search, load_search, prepare_search, search_baselines, search_parts
from genrecall.telemetry import Stages
from genrecall.text.encoder import load_encoder
from genrecall.text.vectors import Vectors
from genrecall.train.search import SearchConfig


def main(options: argparse.Namespace) -> None:
    """Train, judge, write one JSON file and print its tables."""
    run, out = options.run, options.work
    catalog, vectors = Catalog.load(run / "catalog"), Vectors.load(run / "vectors")
    chosen = named.resolve(options.recipe, None, {}, run)
    study = named.study_of(chosen, catalog, small=None, device=options.device).seeded(options.seed)
    split, allowed = study.split.divide(catalog), Vectors.load(options.vectors)
    if not options.searches.is_dir():
        prepare_search(
            catalog, allowed, split, load_encoder(study.encoder, device=options.device).encode, options.searches,
            config=SearchConfig(queries=options.queries), teacher=SearchTeacherConfig(items=options.teacher_items),
        )  # fmt: skip
    data = load_search(options.searches)
    watch = Stages()
    with watch.stage("sid"):
        sids = generators.tables(catalog, vectors, split, study, out)
    lesson = None
    if not options.untaught:
        with watch.stage("teacher"):
            lesson = generators.teacher(
                catalog, vectors, split, study, baselines.chosen(run / "tuning"), run / f"seed-{options.seed}/teacher"
            )
    with watch.stage("train"):
        models = generators.generators(catalog, split, study, sids, lesson, out, data)
    export_bundle(catalog, split.train, sid=sids, model=models, out=out / "bundle")
    shop = Recommender.load(out / "bundle", device=options.device, beam=options.beam)
    queries = search_parts(catalog)[int(options.final)]
    cases = split.test if options.final else baselines.sampled(split.valid)
    final = None
    if options.final:
        final = Final(run=out, purpose="benchmarks/search.py", bundle=shop.digest, catalog=catalog.digest)
    texts = search_baselines(allowed, data, split)
    with watch.stage("eval"):
        searched = judge_search([shop.generative, *texts], queries, split, len(catalog.items), final=final)
        recommended = evaluate(
            [shop.generative], cases, num_items=len(catalog.items), protocol=study.split.protocol(split),
            train_counts=split.train.item_counts(len(catalog.items)), profile=catalog.profile_of, final=final,
        )  # fmt: skip
    found: dict[str, Any] = {
        "machine": hardware.describe(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "seconds": {name: round(value, 1) for name, value in watch.seconds.items()},
        "written": time.strftime("%Y-%m-%d"),
        "search": searched.to_dict(),
        "recommendation": recommended.to_dict(),
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for evaluation, names in (
        (searched, ("recall@10", "recall@50", "ndcg@10", "fill@10")),
        (recommended, ("recall@10", "recall@50", "ndcg@10")),
    ):
        print(evaluation.sentence())
        for channel, result in evaluation.results.items():
            print(f"{channel:12}", "  ".join(f"{name} {result.metrics[name].mean:.4f}" for name in names))
            for group, parts in result.slices.items():
                for part, metrics in parts.items():
                    told = "  ".join(f"{name} {metrics[name].mean:.4f}" for name in names if name in metrics)
                    print(f"    {group} {part}: {told}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--searches", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/search"))
    parser.add_argument("--recipe", default=None)
    parser.add_argument("--queries", type=int, default=80_000, help="made up from titles, at most")
    parser.add_argument("--teacher-items", type=int, default=32, help="answers that teachers give for a query")
    parser.add_argument("--beam", type=int, default=100)
    parser.add_argument("--untaught", action="store_true", help="learn recommendations from events alone")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--final", action="store_true")
    main(parser.parse_args())
