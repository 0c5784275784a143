"""Pictures of a SID report, as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrecall.errors import DependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(found: dict[str, Any], directory: Path) -> list[Path]:
    """Draw the report of ``quality.report``; returns the files written.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise DependencyError("matplotlib", extra="eval", purpose="drawing SID plots") from missing
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for name, paint in _PLOTS.items():
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure.subplots(), found)
        file = directory / f"{name}.png"
        figure.savefig(file, dpi=130)
        files.append(file)
    return files


def _code_use(axes: Axes, found: dict[str, Any]) -> None:
    for level, use in enumerate(found["levels"]):
        axes.plot(
            use["counts"], label=f"level {level}: {use['used']}/{use['codes']} used, perplexity {use['perplexity']:.0f}"
        )
    axes.set(
        title="Items per code, codes sorted by size", xlabel="code, largest first", ylabel="items", yscale="symlog"
    )
    axes.legend(fontsize=8)


def _errors(axes: Axes, found: dict[str, Any]) -> None:
    errors = found["reconstruction_error"]["by_levels"]
    axes.plot(range(1, len(errors) + 1), errors, marker="o")
    axes.set(
        title="Unexplained variance by number of levels", xlabel="levels", xticks=range(1, len(errors) + 1), ylim=(0, 1)
    )


def _sharing(axes: Axes, found: dict[str, Any]) -> None:
    for shift, when in ((-0.2, "before"), (0.2, "after")):
        histogram = found["items_per_sid"][when]["histogram"]
        axes.bar(
            [int(size) + shift for size in histogram], list(histogram.values()), width=0.4, label=f"{when} resolving"
        )
    axes.set(title="SIDs by number of items", xlabel="items of the SID", ylabel="SIDs", yscale="log")
    axes.legend(fontsize=8)


def _prefixes(axes: Axes, found: dict[str, Any]) -> None:
    levels = range(len(found["levels"]))
    axes.bar(levels, [use["forced_items"] for use in found["levels"]], label="items without a choice at this level")
    axes.set(title="Where the SID is settled", xlabel="level", ylabel="share of items", xticks=levels, ylim=(0, 1))
    right = axes.twinx()
    right.plot(levels, [use["prefix_entropy_bits"] for use in found["levels"]], color="tab:red", marker="o")
    right.set_ylabel("prefix entropy, bits", color="tab:red")
    axes.legend(fontsize=8, loc="upper left")


_PLOTS = {"code_use": _code_use, "reconstruction": _errors, "items_per_sid": _sharing, "prefixes": _prefixes}
