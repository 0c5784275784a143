"""Does what a language model knows of the world help? Pretrained against random weights, with and without alignment.

    python benchmarks/llm_backbones.py --run DIR --backbone DIR --seconds 90 --out FILE.json

DIR of ``--run`` holds a catalog and its SIDs (text alone, so that cold items have theirs fairly). A tenth of the items,
those that appeared last, is held out of all training, alignment included; it can still be written, because it has SIDs.
Arms, each with the same wall time for training (an aligned arm spends ``--align-share`` of it on the first phase):

    pretrained, pretrained+align   the backbone's weights
    random, random+align           the same architecture and tokenizer with random weights
    small                          the product's small model from scratch, as a yardstick; so are transition counts

Every arm keeps its best validation (Recall@10 on a sample). Figures are of validation cases, by target popularity (cold
ones apart) and history length, with paired bootstrap intervals of pretrained − random; `--final` reads the test part.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrecall import hardware
from genrecall.catalog.queries import search_cases
from genrecall.catalog.split import hold_out_items
from genrecall.catalog.store import Catalog
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.eval.harness import evaluate
from genrecall.eval.lock import Final
from genrecall.eval.search import evaluate_search
from genrecall.index.trie import Trie
from genrecall.model.config import ModelConfig
from genrecall.model.weights import load_model, save_model
from genrecall.prompt.history import HistoryConfig
from genrecall.prompt.prompt import PromptBuilder
from genrecall.recall.generative import GenerativeChannel, GenerativeConfig
from genrecall.recall.transition import TransitionChannel
from genrecall.recipes.recipe import Recipe, SplitConfig
from genrecall.recipes.stages import train_model
from genrecall.sid.table import SidTable
from genrecall.train.config import TrainConfig
from genrecall.train.mixture import ALIGNMENT, Mixture

ARMS = ("pretrained+align", "random+align", "pretrained", "random", "small")
FOREVER = 1e6  # epochs: the clock ends a run


def randomised(backbone: Path, out: Path, seed: int) -> Path:
    """The same configuration and tokenizer with random weights."""
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    save_model(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(backbone)), out)
    for file in backbone.glob("tokenizer*"):
        shutil.copy(file, out / file.name)
    return out


def recipe_of(arm: str, options: argparse.Namespace, backbones: dict[str, Path]) -> Recipe:
    """Settings of one arm."""
    weights, _, aligned = arm.partition("+")
    rate = options.rate_pretrained if weights == "pretrained" else options.rate_random
    first = options.align_share * options.seconds if aligned else 0.0
    second = TrainConfig(
        epochs=FOREVER,
        max_seconds=options.seconds - first,
        batch_tokens=options.batch_tokens,
        optimizer="adamw",
        learning_rate=rate,
        dropout=options.dropout,
        eval_every=options.eval_every,
        patience=0,
        checkpoint_every_s=0,
        device=options.device,
        seed=options.seed,
    )
    if weights == "small":
        second = replace(second, optimizer="muon", learning_rate=2e-3, dropout=0.2)
    mixture = Mixture(shares=dict(ALIGNMENT), warm_only=True)
    return Recipe(
        name=arm,
        split=split_of(options),
        backbone=str(backbones[weights]) if weights in backbones else None,
        model=ModelConfig(size="small", seed=options.seed),
        template="compact" if weights == "small" else options.template,
        history=HistoryConfig(max_items=options.max_items),
        align=replace(second, max_seconds=first, mixture=mixture) if aligned else None,
        train=second,
        validation_cases=options.validation_cases,
    )


def split_of(options: argparse.Namespace) -> SplitConfig:
    """Office brings its own split; the others leave the last two events out. Source order: there are no time stamps."""
    if options.split == "source":
        return SplitConfig(rule="source", repeats="keep", tie_seed=None, history="kept")
    return SplitConfig(tie_seed=None)


def main(options: argparse.Namespace) -> None:
    """Train and judge every arm, and write one JSON file after each."""
    run, work = options.run, options.work
    catalog, table = Catalog.load(run / "catalog"), SidTable.load(run / "sid")
    split, cold = hold_out_items(split_of(options).divide(catalog), share=options.cold_share)
    counts = split.train.item_counts(len(catalog.items))
    asked = split.test if options.final else split.valid
    chosen = np.sort(np.random.default_rng(0).permutation(len(asked))[: options.cases])
    cases = asked.subset(chosen)
    trie = Trie.build(table.space, table.sids)
    backbones = {
        "pretrained": options.backbone,
        "random": randomised(options.backbone, work / "random-weights", options.seed),
    }
    protocol = split_of(options).protocol(split, remarks=(f"{len(cases):,} of {len(asked):,} cases",))
    found: dict[str, Any] = {
        "machine": hardware.describe(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "protocol": protocol.sentence(),
        "cold_items": len(cold),
        "arms": {},
    }
    gains: dict[str, np.ndarray] = {}
    last = None
    for arm in ("transition", *options.arms):
        began = time.monotonic()
        facts: dict[str, Any] = {}
        if arm == "transition":
            channel: Any = TransitionChannel.fit(split.train, len(catalog.items))
        else:
            recipe = recipe_of(arm, options, backbones)
            model = train_model(catalog, split, sid=run / "sid", out=work / arm, recipe=recipe, force=True)
            facts = {key: model.manifest.facts[key] for key in ("best", "epochs", "steps", "seconds", "tokens_per_s")}
            facts["parameters"] = sum(p.numel() for p in load_model(model.path).parameters())
            if recipe.align is not None:
                first = json.loads((work / f"{arm}-aligned" / "manifest.json").read_text())["facts"]
                facts["aligned"] = {key: first[key] for key in ("epochs", "steps", "seconds", "mixture")}
            prompts = PromptBuilder.load(model.path, table.sids, catalog.items.titles)
            engine = Engine(
                load_model(model.path), trie, prompts.vocabulary.sid_tokens, EngineConfig(device=options.device)
            )
            channel = GenerativeChannel(engine, prompts, table, counts, GenerativeConfig(beam=options.beam))
        evaluation = last = evaluate(
            [channel], cases, num_items=len(catalog.items), protocol=protocol, train_counts=counts,
            profile=catalog.profile_of,
            final=Final(run=work, purpose=f"benchmarks/llm_backbones.py {arm}") if options.final else None,
        )  # fmt: skip
        result = evaluation.results[channel.name]
        gains[arm] = result.gains.mean(0)
        entry = {
            "training": facts,
            "metrics": {name: round(value.mean, 5) for name, value in result.metrics.items()},
            "slices": {
                group: {
                    part: {"cases": evaluation.slice_sizes[group][part]}
                    | {name: round(metrics[name].mean, 5) for name in ("recall@10", "recall@50", "ndcg@10")}
                    for part, metrics in parts.items()
                }
                for group, parts in result.slices.items()
            },
            "seconds": round(time.monotonic() - began, 1),
        }
        if "align" in arm and catalog.queries is not None:
            entry["search"] = searched(channel, catalog, counts)
        found["arms"][arm] = entry
        found["differences"] = differences(gains, last, options.seed)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(line(arm, entry), flush=True)
        del channel
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def searched(channel: Any, catalog: Catalog, counts: np.ndarray) -> dict[str, float]:
    """The validation half of the catalog's queries, which alignment has not seen."""
    valid, _ = search_cases(catalog).divide()
    evaluation = evaluate_search([channel], valid, num_items=len(catalog.items), train_counts=counts)
    return {name: round(value.mean, 5) for name, value in evaluation.results[channel.name].metrics.items()}


def differences(gains: dict[str, np.ndarray], evaluation: Any, seed: int) -> dict[str, Any]:
    """Paired bootstrap of Recall@10 and @50 between arms that differ in one thing, overall and by slice."""
    from genrecall.eval.significance import paired

    names = list(next(iter(evaluation.results.values())).metrics)
    masks = {"all": np.ones(evaluation.num_cases, dtype=bool)}
    masks |= {f"{group}: {part}": mask for group, parts in evaluation.masks.items() for part, mask in parts.items()}
    told: dict[str, Any] = {}
    for first, second in (
        ("pretrained", "random"), ("pretrained+align", "random+align"), ("pretrained+align", "pretrained"),
        ("random+align", "random"),
    ):  # fmt: skip
        if first not in gains or second not in gains:
            continue
        told[f"{first} - {second}"] = {
            part: {
                metric: [round(value, 5) for value in (found.mean, found.low, found.high)]
                for metric in ("recall@10", "recall@50")
                for found in [
                    paired(
                        gains[first][mask][:, names.index(metric)],
                        gains[second][mask][:, names.index(metric)],
                        evaluation.users[mask],
                        seed=seed,
                    ).interval
                ]
            }
            for part, mask in masks.items()
        }
    return told


def line(arm: str, entry: dict[str, Any]) -> str:
    """One arm for people."""
    cold = entry["slices"]["target popularity"].get("cold", {})
    short = entry["slices"]["history length"].get("1-4", {})
    parts = [f"{arm:17}", *(f"{name} {entry['metrics'][name]:.4f}" for name in ("recall@10", "ndcg@10", "recall@50"))]
    parts += [
        f"cold R@50 {cold.get('recall@50', float('nan')):.4f}",
        f"1-4 events R@10 {short.get('recall@10', 0):.4f}",
    ]
    if entry["training"]:
        parts.append(f"{entry['training']['epochs']:.1f} epochs, {entry['training']['tokens_per_s']:,} tokens/s")
    if "search" in entry:
        parts.append(f"search R@10 {entry['search']['recall@10']:.4f} NDCG@10 {entry['search']['ndcg@10']:.4f}")
    return "  ".join([*parts, f"{entry['seconds']:.0f} s"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/llm_backbones"))
    parser.add_argument("--seconds", type=float, default=90.0, help="training of one arm, both phases")
    parser.add_argument("--align-share", type=float, default=0.35)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--template", default="en", help="compact: SIDs without a word around them, five times shorter")
    parser.add_argument("--split", default="leave_one_out", choices=("leave_one_out", "source"))
    parser.add_argument("--cold-share", type=float, default=0.1)
    parser.add_argument("--cases", type=int, default=6000)
    parser.add_argument("--beam", type=int, default=50)
    parser.add_argument("--max-items", type=int, default=20)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--rate-pretrained", type=float, default=4e-4)
    parser.add_argument("--rate-random", type=float, default=8e-4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--eval-every", type=float, default=1.0)
    parser.add_argument("--validation-cases", type=int, default=500)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--final", action="store_true")
    main(parser.parse_args())
