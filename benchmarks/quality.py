"""Reports of `genrecall run`, of one seed each, as one result file and one table.

    genrecall run --recipe amazon_beauty --data DATA --out runs/a --first-seed 0 --final --beams 50,300
    genrecall run --recipe amazon_beauty --data DATA --out runs/b --first-seed 1 --final
    python benchmarks/quality.py runs/a/report.json runs/b/report.json --out benchmarks/results/quality/beauty.json

Seeds may come from different days and machines, and a result file may stand for the reports that it was made of; what
must be equal (study, protocol) is compared first. A part that not all seeds have (refit) says whose it is.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

METRICS = ("recall@5", "recall@10", "recall@20", "recall@50", "ndcg@5", "ndcg@10", "ndcg@20", "ndcg@50", "mrr@10")
SHOWN = ("recall@5", "recall@10", "recall@50", "ndcg@5", "ndcg@10")
PARTS = ("valid", "final", "refit")


def gathered(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One document: what all runs share, then each run's own, then the figures by part, channel, metric and run."""
    documents = [one if "runs" in one else _document(one) for one in found]
    seeds = [run["seed"] for document in documents for run in document["runs"]]
    if len(set(seeds)) < len(seeds):
        sys.exit(f"a seed is there twice: {seeds}")
    first = documents[0]
    if any(_alike(document["study"]) != _alike(first["study"]) for document in documents):
        sys.exit("the studies differ in more than their seeds and devices")
    merged: dict[str, Any] = {
        "study": first["study"],
        "protocols": {},
        "runs": [run for document in documents for run in document["runs"]],
    }
    for part in PARTS:
        having = [document for document in documents if part in document]
        if not having:
            continue
        told = [document["protocols"][part] for document in having]
        if len({_lasting(sentence) for sentence in told}) > 1:
            sys.exit(f"the protocol of {part} differs between reports")
        merged["protocols"][part] = told[0]
        own = [(_seeds_of(document, part), document[part]) for document in having]
        merged[part] = _joined(own)
        if (all_of := [seed for some, _ in own for seed in some]) != seeds:
            merged[f"{part} seeds"] = all_of
    return merged


def _seeds_of(document: dict[str, Any], part: str) -> list[int]:
    """Whose figures a part holds."""
    found: list[int] = document.get(f"{part} seeds", [run["seed"] for run in document["runs"]])
    return found


def _lasting(sentence: str) -> str:
    """Of a protocol: all but how often the test part had been read, which each run says for itself."""
    return re.sub(r";? ?[Tt]his test split was read.*$", "", sentence).rstrip(". ")


def _document(report: dict[str, Any]) -> dict[str, Any]:
    """Of one report."""
    if len(report["seeds"]) != 1:
        sys.exit(f"reports of one seed each are gathered, this one has {report['seeds']}")
    seed, parts = report["seeds"][0], [part for part in PARTS if part in report]
    readings = {part: report[part]["protocol"]["readings"] for part in parts if part != "valid"}
    run = {"seed": seed, "machine": report["machine"], "seconds": report["seconds"][str(seed)],
           "beams": report["beams"], "readings of the test split": readings}  # fmt: skip
    figures = {
        part: {
            channel: {
                name: {
                    "runs": [round(metrics[name]["mean"], 5)],
                    "95%": [[round(metrics[name][end], 4) for end in ("low", "high")]],
                }
                for name in METRICS
            }
            for channel, metrics in report[part]["metrics"].items()
        }
        for part in parts
    }
    protocols = {part: report[part]["protocol"]["sentence"] for part in parts}
    return {"study": report["study"], "protocols": protocols, "runs": [run], **figures}


def _joined(parts: list[tuple[list[int], dict[str, Any]]]) -> dict[str, Any]:
    """The same part of several documents; a channel that not all seeds have says whose figures it holds."""
    channels = dict.fromkeys(channel for _, part in parts for channel in part)
    everybody = [seed for seeds, _ in parts for seed in seeds]
    merged: dict[str, Any] = {}
    for channel in channels:
        having = [(part[channel].get("seeds", seeds), part[channel]) for seeds, part in parts if channel in part]
        merged[channel] = {
            name: {kind: [one for _, own in having for one in own[name][kind]] for kind in ("runs", "95%")}
            for name in METRICS
        }
        if (seeds := [seed for some, _ in having for seed in some]) != everybody:
            merged[channel]["seeds"] = seeds
    return merged


def table(result: dict[str, Any], part: str) -> str:
    """Markdown: a row a channel, mean and standard deviation over the runs."""
    lines = ["| channel | " + " | ".join(SHOWN) + " |", "| --- |" + " ---: |" * len(SHOWN)]
    for channel, metrics in result[part].items():
        cells = []
        for name in SHOWN:
            values = metrics[name]["runs"]
            spread = f" ±{statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        lines.append(f"| {channel} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _alike(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _alike(inner) for name, inner in value.items() if name not in ("seed", "device")}
    return [_alike(inner) for inner in value] if isinstance(value, list) else value


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
