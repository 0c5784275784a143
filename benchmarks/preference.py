"""Does learning preferences over its own beams make a trained generator better? Validation cases only.

    python benchmarks/preference.py --run DIR --recipe movielens_100k --out FILE.json [--settings dpo,policy]

DIR holds ``catalog`` and ``vectors`` of a `genrecall run`. The first table's generator is trained once (or taken from
an earlier call), then every setting starts from its weights; a seed is another order of the stage's batches. Cases of
half of the validation users stop the stage, those of the others decide and are told.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from genrecall import hardware
from genrecall.artifacts import open_artifact
from genrecall.catalog.split import Split
from genrecall.catalog.store import Catalog
from genrecall.recipes import baselines, generators, named
from genrecall.recipes.preference import preferred
from genrecall.recipes.study import Study
from genrecall.text.vectors import Vectors
from genrecall.train.preference import PreferenceConfig
from genrecall.train.sequence.config import SequenceConfig

FIGURES = ("ndcg@10", "recall@10", "recall@50", "head@10", "coverage@10")


def settings(last: int, epochs: float) -> dict[str, PreferenceConfig]:
    """What is tried: the default losses; beams that the user chose at any later time spared; that with smaller steps;
    the other objective; and what as many more steps on likelihood alone would bring."""

    def rated(rate: float, **more: object) -> PreferenceConfig:
        train = SequenceConfig(
            epochs=epochs, learning_rate=rate, warmup=0.1, weight_decay=0.0, eval_every=epochs / 8, patience=3
        )
        return replace(PreferenceConfig(last=last, train=train), **more)

    return {
        "dpo": rated(5e-5),
        "later": rated(5e-5, future=last),
        "gentle": rated(1e-5, future=last),
        "policy": rated(1e-5, objective="policy", future=last),
        "likelihood": rated(5e-5, beta=1e-6, kl=0.0, nll=1.0),
    }


def trained(catalog: Catalog, vectors: Vectors, split: Split, study: Study, run: Path) -> tuple[Path, Path]:
    """SIDs and generator."""
    out = run / f"seed-{study.seed}"
    baselines.tune(catalog, vectors, split, study, run / "tuning")
    sids = generators.tables(catalog, vectors, split, study, out)
    chosen = baselines.chosen(run / "tuning")
    lesson = generators.teacher(catalog, vectors, split, study, chosen, out / "teacher")
    return sids[0], generators.generators(catalog, split, study, sids[:1], lesson, out)[0]


def main(options: argparse.Namespace) -> None:
    """All settings, one JSON file, one table."""
    catalog, vectors = Catalog.load(options.run / "catalog"), Vectors.load(options.run / "vectors")
    chosen = named.resolve(options.recipe, None, {}, options.run)
    study = named.study_of(chosen, catalog, small=options.small, device=options.device).seeded(0)
    train = study.train
    if options.generator_epochs is not None:
        train = replace(train, epochs=options.generator_epochs, eval_every=options.generator_epochs / 4)
    study = replace(study, validation_cases=options.cases, train=train)
    split = study.split.divide(catalog)
    sid, model = trained(catalog, vectors, split, study, options.run)
    tried = settings(options.last, options.epochs)
    found = []
    for name in options.settings.split(",") if options.settings else tried:
        for seed in range(options.seeds):
            out = options.run / "preference" / f"{name}-{seed}"
            preferred(catalog, split, replace(study, seed=seed), sid, model, out, tried[name])
            manifest = open_artifact(out, kind="model").manifest
            told = manifest.facts["preference"]
            found.append({"setting": name, "seed": seed, **told})
            before, after, change = told["before"], told["after"], told["change"]["ndcg@10"]
            figures = "  ".join(f"{figure} {before[figure]:.4f} {after[figure]:.4f}" for figure in FIGURES)
            print(f"{name} {seed}: {change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})  {figures}")
    told = {
        "machine": hardware.describe(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "generator": open_artifact(model, kind="model").manifest.facts,
        "settings": {name: asdict(tried[name]) for name in dict.fromkeys(one["setting"] for one in found)},
        "found": found,
    }
    options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--recipe", default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", default="")
    parser.add_argument("--last", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--cases", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--generator-epochs", type=float, default=None, help="of its training; else the recipe's")
    parser.add_argument("--small", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--device", default="auto")
    main(parser.parse_args())
