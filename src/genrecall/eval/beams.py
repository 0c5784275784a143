"""How much a wider search finds: recall against the beam, which decides the engine's width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genrecall.eval import charts
from genrecall.eval.document import Figure, Section, Table
from genrecall.eval.tables import label


@dataclass(frozen=True, kw_only=True)
class BeamPoint:
    """One width.

    Attributes:
        beam: W.
        metrics: means by name, for example ``recall@10``; the same names at every width.
        seconds: a thousand queries; None where it was not measured.
    """

    beam: int
    metrics: Mapping[str, float]
    seconds: float | None = None


def beam_section(points: Sequence[BeamPoint], rules: str) -> Section:
    """Chart and table, by ascending beam.

    Args:
        points: at least one.
        rules: the sentence of the evaluation that the points come from.
    """
    points = sorted(points, key=lambda point: point.beam)
    names = list(points[0].metrics)
    curves = {
        label(name): [(float(place), point.metrics[name]) for place, point in enumerate(points)]
        for name in names
        if name.startswith("recall")
    }
    ticks = {float(place): str(point.beam) for place, point in enumerate(points)}
    rows = [
        [
            f"{point.beam:,}",
            *(f"{point.metrics[name]:.4f}" for name in names),
            "–" if point.seconds is None else f"{point.seconds:.2f}",
        ]
        for point in points
    ]
    columns = ["beam", *map(label, names), "s per 1,000 queries"]
    chart = charts.lines(curves, x_label="beam", y_label="Recall", x_ticks=ticks)
    return Section(
        title="Recall against beam",
        blocks=[Figure(svg=chart, caption="Recall by beam."), Table(columns=columns, rows=rows, caption=rules)],
    )
