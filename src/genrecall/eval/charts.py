"""Small SVG charts, written by hand: they inherit the page's colours (light and dark) and need no plotting package."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from genrecall.eval.significance import Interval

WIDTH = 720
COLOURS = 8
_LABEL_GAP = 15.0


def colour(place: int) -> str:
    """CSS colour of the series at this place (the page defines eight, for light and dark)."""
    return f"var(--c{place % COLOURS})"


def bars(values: Mapping[str, Interval], *, digits: int = 4) -> str:
    """Horizontal bars with intervals, one a name, in the order given."""
    left, right, row = 132.0, 96.0, 34.0
    height = row * len(values) + 8
    top = max((value.high for value in values.values()), default=0.0) or 1.0
    scale = (WIDTH - left - right) / top
    parts = []
    for place, (name, value) in enumerate(values.items()):
        middle = 4 + row * place + row / 2
        x_low, x_high = left + value.low * scale, left + value.high * scale
        parts += [
            _text(left - 10, middle + 4, name, anchor="end"),
            f'<rect x="{left:.1f}" y="{middle - 9:.1f}" width="{max(value.mean * scale, 1):.1f}" height="18" rx="3" '
            f'fill="{colour(place)}"/>',
            _whisker(x_low, x_high, middle),
            _text(max(x_high, left) + 8, middle + 4, f"{value.mean:.{digits}f}", kind="value"),
        ]
    return _svg(height, parts, f"bars: {', '.join(values)}")


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str = "",
    y_label: str = "",
    x_ticks: Mapping[float, str] | None = None,
    from_zero: bool = True,
    digits: int = 3,
) -> str:
    """Lines with dots, named at their right end.

    Args:
        series: points (x, y) by name, x ascending; at least one point in all.
        x_label: under the horizontal axis.
        y_label: above the vertical axis.
        x_ticks: places and names of ticks; otherwise round numbers.
        from_zero: start the vertical axis at zero.
        digits: of the vertical axis' numbers.
    """
    height, left, right, head, foot = 280.0, 58.0, 128.0, 26.0, 42.0
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    y_ticks = _round_ticks(0.0 if from_zero else min(ys), max(ys))
    ticks = x_ticks or {tick: f"{tick:g}" for tick in _round_ticks(min(xs), max(xs)) if min(xs) <= tick <= max(xs)}
    x_min, x_max, y_min, y_max = min(xs), max(xs), y_ticks[0], y_ticks[-1]

    def at_x(x: float) -> float:
        return left + (x - x_min) / ((x_max - x_min) or 1) * (WIDTH - left - right)

    def at_y(y: float) -> float:
        return height - foot - (y - y_min) / ((y_max - y_min) or 1) * (height - head - foot)

    parts = _grid(y_ticks, at_y, left, WIDTH - right, digits)
    parts += [_text(at_x(tick), height - foot + 18, name, anchor="middle", kind="tick") for tick, name in ticks.items()]
    parts.append(_text((left + WIDTH - right) / 2, height - 6, x_label, anchor="middle", kind="tick"))
    parts.append(_text(4, 12, y_label, kind="tick"))
    ends: list[tuple[float, str, str]] = []
    for place, (name, points) in enumerate(series.items()):
        if not points:
            continue
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(place)}" stroke-width="2.2"/>')
        if len(points) <= 20:
            parts += [
                f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.2" fill="{colour(place)}"/>' for x, y in points
            ]
        ends.append((at_y(points[-1][1]), name, colour(place)))
    ends.sort()
    for (_, name, paint), placed in zip(ends, _apart([end[0] for end in ends]), strict=True):
        parts.append(_text(WIDTH - right + 10, placed + 4, name, fill=paint, kind="series"))
    return _svg(height, parts, f"lines: {', '.join(series)}")


def dots(groups: Sequence[str], series: Mapping[str, Sequence[Interval | None]], *, digits: int = 3) -> str:
    """Dots with intervals: one column a group, one colour a series.

    Args:
        groups: names of the columns (a newline starts a second line).
        series: one interval a group by name; None leaves the place empty.
        digits: of the vertical axis' numbers.
    """
    height, left, head, foot = 290.0, 58.0, 36.0, 44.0
    highest = max((value.high for values in series.values() for value in values if value is not None), default=1.0)
    y_ticks = _round_ticks(0.0, highest or 1.0)
    column = (WIDTH - left - 8) / max(len(groups), 1)

    def at_y(y: float) -> float:
        return height - foot - y / y_ticks[-1] * (height - head - foot)

    parts = _grid(y_ticks, at_y, left, WIDTH - 8, digits)
    legend = left
    for place, name in enumerate(series):
        parts.append(f'<circle cx="{legend + 5:.1f}" cy="12" r="4.5" fill="{colour(place)}"/>')
        parts.append(_text(legend + 15, 16, name, kind="tick"))
        legend += 34 + 7.0 * len(name)
    step = min(18.0, column * 0.7 / max(len(series), 1))
    for group, label in enumerate(groups):
        middle = left + column * (group + 0.5)
        for line, words in enumerate(label.split("\n")):
            parts.append(_text(middle, height - foot + 18 + 14 * line, words, anchor="middle", kind="tick"))
        for place, values in enumerate(series.values()):
            value = values[group]
            if value is None:
                continue
            x = middle + (place - (len(series) - 1) / 2) * step
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{at_y(value.low):.1f}" y2="{at_y(value.high):.1f}" '
                f'stroke="{colour(place)}" stroke-width="2" opacity="0.6"/>'
            )
            parts.append(f'<circle cx="{x:.1f}" cy="{at_y(value.mean):.1f}" r="4.5" fill="{colour(place)}"/>')
    return _svg(height, parts, f"dots: {', '.join(series)} by {', '.join(groups)}")


def _round_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / wanted))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, max(last, first + 1) + 1)]


def _apart(places: Sequence[float]) -> list[float]:
    """Ascending places, moved down (and back up as a block) until they are a label's height apart."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + _LABEL_GAP) if moved else place)
    shift = sum(a - b for a, b in zip(moved, places, strict=True)) / max(len(moved), 1)
    return [place - shift for place in moved]


def _grid(ticks: Sequence[float], at_y: Callable[[float], float], left: float, right: float, digits: int) -> list[str]:
    parts = []
    for tick in ticks:
        y = at_y(tick)
        parts.append(f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(
            _text(left - 8, y + 4, f"{tick:.{digits}f}".rstrip("0").rstrip(".") or "0", anchor="end", kind="tick")
        )
    return parts


def _whisker(x_low: float, x_high: float, y: float) -> str:
    ends = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 4:.1f}" y2="{y + 4:.1f}"/>' for x in (x_low, x_high))
    return f'<g class="whisker"><line x1="{x_low:.1f}" x2="{x_high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>{ends}</g>'


def _text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "label", fill: str = "") -> str:
    paint = f' style="fill:{fill}"' if fill else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}"{paint}>{escape(words)}</text>'


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    body = "".join(parts)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )
