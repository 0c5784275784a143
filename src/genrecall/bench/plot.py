"""A picture of a results file: what a user waits at which rate, and where the GPU's time goes beside the floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genrecall.errors import DataError, DependencyError

_IDLE = "idle"


def draw(found: dict[str, Any], target: Path) -> None:
    """Write it; the format follows from the name.

    Raises:
        DependencyError: matplotlib is not installed.
        DataError: nothing in the results can be drawn.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("matplotlib", extra="eval", purpose="pictures of results") from None
    loops, shares = rates_against_p99(found), shares_by_kernel(found)
    if not loops and not shares:
        raise DataError(
            "nothing in these results can be drawn",
            seen=", ".join(found["cases"]) or "no cases",
            allowed="open loops (suite open-loop, or --slo-ms), or tables measured on a GPU",
            fix="measure one of them into the same file",
        )
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in loops.items():
        left.plot([rate for rate, _ in points], [p99 for _, p99 in points], "o-", label=name)
    for objective in {figures["slo_ms"] for figures in found["cases"].values() if "slo_ms" in figures}:
        left.axhline(objective, linestyle="--", color="grey")
    left.set(xlabel="arrivals, requests/s", ylabel="p99, ms from arrival", yscale="log", title="Open loop")
    if loops:
        left.legend(fontsize="small")
        left.yaxis.set_major_formatter("{x:.0f}")
        left.yaxis.set_minor_formatter("{x:.0f}")
    bottoms = [0.0] * len(shares)
    kinds = dict.fromkeys(kind for parts in shares.values() for kind in parts)
    for kind in sorted(kinds, key=lambda kind: kind == _IDLE):
        heights = [parts.get(kind, 0.0) for parts in shares.values()]
        right.bar(list(shares), heights, bottom=bottoms, label=kind)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    right.axhline(1.0, linestyle="--", color="grey")
    right.set(ylabel="time of a request over the floor of its linear layers", title="GPU time by kernel")
    right.tick_params(axis="x", rotation=60)
    if shares:
        right.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    machine = found["hardware"]
    figure.suptitle(f"{found['config']['shape']}, {', '.join(machine['gpus']) or machine['cpu']}, {machine['commit']}")
    figure.savefig(target, dpi=150)


def rates_against_p99(found: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """The best p99 of every case at every rate that was probed, by rate; those without an answer are left out."""
    loops = {}
    for name, figures in found["cases"].items():
        probes = [one for tried in figures.get("slo_probes", {}).values() for one in tried]
        probes += [figures["open_loop"]] if "open_loop" in figures else []
        best: dict[float, float] = {}
        for one in probes:
            best[one["rate"]] = min(best.get(one["rate"], float("inf")), one["p99_ms"])
        points = sorted((rate, p99) for rate, p99 in best.items() if p99 < float("inf"))
        if points:
            loops[name] = points
    return loops


def shares_by_kernel(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of the cases of the table: milliseconds of a request by kind of kernel, over the floor's; the rest is idle."""
    shares = {}
    for name, figures in found["cases"].items():
        by_kind = figures.get("gpu_time", {}).get("by_kind_ms", {})
        if by_kind and "floor" in figures:
            floor_ms = 1e3 / figures["floor"]["requests_per_s"]
            parts = {kind: spent / (4 * figures["batch"]) / floor_ms for kind, spent in by_kind.items()}
            idle = 1 / figures["share_of_floor"] - sum(parts.values())
            shares[name] = {**parts, _IDLE: max(idle, 0.0)}
    return shares
