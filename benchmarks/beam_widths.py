"""How wide must a beam be? Recall of one generator by width, by schedule of widths, and with several items a SID.

    python benchmarks/beam_widths.py --run DIR --seed 0 --out FILE.json

DIR is that of a `genrecall run` with this seed trained. Its first generator (one item a SID) is asked with beams of
equal width on all levels and with schedules; a second generator is trained likewise on a table whose last level is left
out, so that items share SIDs, and is asked with narrow beams: its lists fill up with the items of each SID, the most
frequent first. Up to 4,000 validation cases.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genrecall import hardware
from genrecall.catalog.store import Catalog
from genrecall.engine.config import EngineConfig
from genrecall.engine.host.request import Request
from genrecall.eval.harness import queries_of
from genrecall.index.availability import allowed_items
from genrecall.recall.generative import GenerativeChannel
from genrecall.recall.generator import open_generator
from genrecall.recipes import baselines, generators, named
from genrecall.sid.table import SidTable
from genrecall.text.vectors import Vectors

WIDTHS: tuple[int | tuple[int, ...], ...] = (
    5, 20, 50, 100, 300, 512, (32, 64, 128, 300), (64, 128, 300, 300), (128, 256, 300, 300), (256, 300, 300, 300),
)  # fmt: skip
DEPTHS = (10, 50, 300)
_BATCH = 512


def main(options: argparse.Namespace) -> None:
    """Both generators, one JSON file, one table."""
    run = options.run
    catalog, vectors = Catalog.load(run / "catalog"), Vectors.load(run / "vectors")
    chosen = named.resolve(options.recipe, None, {}, run)
    study = named.study_of(chosen, catalog, small=None, device=options.device).seeded(options.seed)
    split = study.split.divide(catalog)
    counts = split.train.item_counts(len(catalog.items))
    lesson = generators.teacher(
        catalog, vectors, split, study, baselines.chosen(run / "tuning"), run / f"seed-{options.seed}/teacher"
    )
    first = study.tables[0]
    shared = replace(study, tables=(replace(first, levels=first.levels - 1, collisions="keep"),))
    own = replace(study, tables=(first,))
    cases = baselines.sampled(split.valid)
    queries = queries_of(cases, study.split.protocol(split), catalog.profile_of)
    points: list[dict[str, Any]] = []
    for name, each, directory in (
        ("one item a SID", own, run / f"seed-{options.seed}"),
        ("shared", shared, options.work),
    ):
        sids = generators.tables(catalog, vectors, split, each, directory)
        (model,) = generators.generators(catalog, split, each, sids, lesson, directory)
        table = SidTable.load(sids[0])
        settings = EngineConfig(normalise=each.normalise, device=options.device)  # type: ignore[arg-type]
        engine, prompts = open_generator(model, table, catalog.items.titles, settings)
        channel = GenerativeChannel(engine, prompts, table, counts)
        owners = len(table.sids) / len(table.items_of)
        for width in WIDTHS:
            if isinstance(width, tuple):
                width = width[: table.space.levels]
            hits, lengths, begin_s = np.zeros(max(DEPTHS)), 0, time.perf_counter()
            for begin in range(0, len(queries), _BATCH):
                part = queries[begin : begin + _BATCH]
                requests = [
                    Request(
                        tokens=tuple(prompts.encode(query.history, query.profile, query.times)),
                        beam=width,
                        allowed=allowed_items(engine.trie.num_items, exclude=query.exclude),
                    )
                    for query in part
                ]
                targets = cases.targets[begin : begin + _BATCH].tolist()
                for query, answer, target in zip(part, engine.generate(requests), targets, strict=True):
                    items, _ = channel.expand(answer, query, max(DEPTHS))
                    lengths += len(items)
                    if target in items:
                        hits[items.index(target)] += 1
            found = {f"recall@{k}": round(float(hits[:k].sum() / len(queries)), 5) for k in DEPTHS}
            seconds = (time.perf_counter() - begin_s) / len(queries)
            points.append(
                {"table": name, "items a SID": round(owners, 2), "beam": width, "items listed": lengths / len(queries)}
                | found
                | {"ms a request": round(1000 * seconds, 3)}
            )
            print(points[-1], flush=True)
            told = {"machine": hardware.describe(), "cases": len(queries), "study": study.facts(), "points": points}
            options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--recipe", default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/beam_widths"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
