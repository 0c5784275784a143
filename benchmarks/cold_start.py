"""Items that no training event holds: what a model that never saw them makes of the SIDs appended for them.

    python benchmarks/cold_start.py --run DIR --recipe amazon_beauty --out FILE.json [--seeds 3] [--final]

DIR holds ``catalog`` and ``vectors`` of a `genrecall run`. A tenth of the items, those that appeared last, is held out
of SIDs, training and teachers; afterwards they get SIDs by append. Judged are the cases whose target is such an item,
the whole catalog ranked, beside BM25 and vectors of texts. Validation cases, or with ``--final`` test cases.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from genrecall import hardware
from genrecall.catalog.store import Catalog
from genrecall.eval.lock import Final
from genrecall.eval.seeds import merge
from genrecall.recipes import named
from genrecall.recipes.cold_start import cold_start, suited_to_cold
from genrecall.text.vectors import Vectors


def main(options: argparse.Namespace) -> None:
    """All seeds, one JSON file, one table."""
    catalog, vectors = Catalog.load(options.run / "catalog"), Vectors.load(options.run / "vectors")
    chosen = named.resolve(options.recipe, None, {}, options.run)
    study = suited_to_cold(named.study_of(chosen, catalog, small=None, device=options.device))
    found = []
    for seed in range(options.seeds):
        work = options.work / f"seed-{seed}"
        final = Final(run=work, purpose=f"benchmarks/cold_start.py, seed {seed}") if options.final else None
        found.append(cold_start(catalog, vectors, study.seeded(seed), work, final=final))
    evaluation = merge(found, [f"seed {seed}" for seed in range(options.seeds)])
    told = {
        "machine": hardware.describe(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "evaluation": evaluation.to_dict(),
    }
    options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(evaluation.sentence())
    for channel, result in evaluation.results.items():
        figures = "  ".join(f"{name} {result.metrics[name].mean:.4f}" for name in ("recall@10", "recall@50", "ndcg@10"))
        print(f"{channel:12} {figures}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--recipe", default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/cold_start"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--final", action="store_true")
    main(parser.parse_args())
