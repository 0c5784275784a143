"""A bundle whose model has the true shape of a large one and random weights: what a service costs before any training.

    python benchmarks/shape_bundle.py --shape qwen2-1.5b --items 100000 --out runs/shape
    genrecall serve runs/shape/bundle --catalog runs/shape/catalog --gateways 2
    genrecall bench serve http://127.0.0.1:8080

Items have made-up titles and vectors, users random histories of as many items as make prompts of 150 tokens; semantic
IDs are those of residual k-means. Scores are nearly uniform: rates and latencies mean something, lists do not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from genrecall import hardware
from genrecall.bench.shapes import random_model, shape_of
from genrecall.catalog.store import import_catalog
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.template import load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.recipes import stages
from genrecall.recipes.recipe import Recipe
from genrecall.sid.build import SidConfig, build_sids
from genrecall.telemetry import Stages
from genrecall.text.vectors import write_vectors
from genrecall.train.result import artifact_config, write_model

_DIM = 64


def main(options: argparse.Namespace) -> None:
    """Make catalog, vectors, SIDs, model and bundle under ``--out``."""
    out, rng, watch = options.out, np.random.default_rng(options.seed), Stages()
    out.mkdir(parents=True, exist_ok=True)
    with watch.stage("catalog"):
        files = _tables(out, options.items, options.users, options.history, rng)
        catalog = import_catalog(files, out / "catalog")
    ids = catalog.items.ids
    vectors = write_vectors(
        out / "vectors", ids, rng.standard_normal((len(ids), _DIM), np.float32), config={"encoder": "random"},
        parents={"catalog": catalog.digest}, facts={},
    )  # fmt: skip
    with watch.stage("sid"):
        config = SidConfig(levels=options.levels, codes=options.codes, quantizer="rq_kmeans")
        table = build_sids(catalog, vectors, out=out / "sid", config=config)
    recipe = Recipe(name="shape")
    template, shape = load_template(recipe.template), shape_of(options.shape)
    with watch.stage("model"):
        # Prompts are of scratch words; the rest of the shape's vocabulary is there and never asked for.
        vocabulary = Vocabulary.scratch(table.space, template.texts())
        prompts = PromptBuilder(vocabulary, template, recipe.history, table.sids, max_tokens=shape.window)
        device = hardware.pick_device(options.device)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        rows = max(table.space.num_tokens, vocabulary.size - shape.words)
        model = random_model(shape, rows, device=device, dtype=dtype, seed=0)
        metrics = out / "metrics.jsonl"
        metrics.write_text("", encoding="utf-8")
        write_model(
            out / "model", model, prompts, metrics=metrics,
            config=artifact_config(recipe.train, prompts, recipe.facts()),
            parents={"catalog": catalog.digest, "sid": table.digest}, facts={},
        )  # fmt: skip
    with watch.stage("bundle"):
        stages.export(catalog, sid=out / "sid", model=out / "model", out=out / "bundle", recipe=recipe)
    print({name: round(seconds, 1) for name, seconds in watch.seconds.items()})


def _tables(out: Path, items: int, users: int, history: int, rng: np.random.Generator) -> dict[str, Path]:
    files = {name: out / f"{name}.parquet" for name in ("items", "events")}
    titles = [f"item {number}" for number in range(items)]
    regions = [f"region {number % 4}" for number in range(items)]  # for filters that bar most of the catalog
    ids = [str(number) for number in range(items)]
    pq.write_table(pa.table({"item_id": ids, "title": titles, "region": regions}), files["items"])
    count = users * history
    pq.write_table(
        pa.table(
            {
                "user_id": np.repeat([f"u{number}" for number in range(users)], history),
                "item_id": rng.integers(0, items, count).astype(str),
                "timestamp": np.tile(np.arange(history), users) * 3600 + 1_700_000_000,
            }
        ),
        files["events"],
    )
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen2-1.5b")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--history", type=int, default=37)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("runs/shape"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
