"""Reports of `genrecall run`, of one seed each, as one result file and one table.

    genrecall run --recipe amazon_beauty --data DATA --out runs/a --first-seed 0 --final --beams 50,300
    genrecall run --recipe amazon_beauty --data DATA --out runs/b --first-seed 1 --final
    python benchmarks/quality.py runs/a/report.json runs/b/report.json --out benchmarks/results/quality/beauty.json

Seeds may come from different days and machines; what must be equal (study, protocol, cases) is compared first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

METRICS = ("recall@5", "recall@10", "recall@20", "recall@50", "ndcg@5", "ndcg@10", "ndcg@20", "ndcg@50", "mrr@10")
SHOWN = ("recall@5", "recall@10", "recall@50", "ndcg@5", "ndcg@10")
PARTS = ("valid", "final", "refit")


def gathered(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """One document: what all runs share, then each run's own, then the figures by part, channel, metric and run."""
    first = reports[0]
    for report in reports:
        if len(report["seeds"]) != 1:
            sys.exit(f"reports of one seed each are gathered, this one has {report['seeds']}")
        for part in set(PARTS) & set(report) & set(first):
            for fact in ("split", "repeats", "history", "ties", "cases_digest"):
                if report[part]["protocol"][fact] != first[part]["protocol"][fact]:
                    sys.exit(f"{part}: {fact} differs between reports")
        if _unseeded(report["study"]) != _unseeded(first["study"]):
            sys.exit("the studies differ in more than their seeds")
    parts = [part for part in PARTS if all(part in report for report in reports)]
    return {
        "study": first["study"],
        "protocols": {part: first[part]["protocol"]["sentence"] for part in parts},
        "runs": [
            {
                "seed": report["seeds"][0],
                "machine": report["machine"],
                "seconds": report["seconds"][str(report["seeds"][0])],
                "beams": report["beams"],
                "readings of the test split": {
                    part: report[part]["protocol"]["readings"] for part in parts if part != "valid"
                },
            }
            for report in reports
        ],
        **{part: _figures([report[part]["metrics"] for report in reports]) for part in parts},
    }


def table(result: dict[str, Any], part: str) -> str:
    """Markdown: a row a channel, mean and standard deviation over the runs."""
    runs = len(result["runs"])
    lines = ["| channel | " + " | ".join(SHOWN) + " |", "| --- |" + " ---: |" * len(SHOWN)]
    for channel, metrics in result[part].items():
        cells = []
        for name in SHOWN:
            values = metrics[name]["runs"]
            spread = f" ±{statistics.stdev(values):.4f}" if runs > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        lines.append(f"| {channel} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figures(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        channel: {
            name: {
                "runs": [round(run[channel][name]["mean"], 5) for run in metrics],
                "95%": [[round(run[channel][name][end], 4) for end in ("low", "high")] for run in metrics],
            }
            for name in METRICS
        }
        for channel in metrics[0]
    }


def _unseeded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unseeded(inner) for name, inner in value.items() if name != "seed"}
    return [_unseeded(inner) for inner in value] if isinstance(value, list) else value


def main() -> None:
    """Gather, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    result = gathered([json.loads(path.read_text(encoding="utf-8")) for path in asked.reports])
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for part in PARTS:
        if part in result:
            print(f"\n{result['protocols'][part]}\n\n{table(result, part)}")


if __name__ == "__main__":
    main()
