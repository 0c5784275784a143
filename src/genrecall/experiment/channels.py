"""What each channel brought to users, from the exposure log: shown, found by it alone, and what came of those.

    alone(c) = |{answered items that only c found}|,    worth(c) = events on them within a window / events on all

The live twin of ``recall.fusion.contribution``. It is no causal figure: without the channel another item would have
stood there, which only an experiment measures.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from genrecall.experiment.exposure import Exposure


def by_channel(
    exposures: Iterable[Exposure], events: Iterable[tuple[str, str, float]], window_s: float
) -> dict[str, dict[str, Any]]:
    """Figures by channel; ``(fallback)`` are items that only filled lists up.

    Args:
        exposures: of the service.
        events: user, item, UTC seconds.
        window_s: an event this long after an answer is attributed to the latest such answer.
    """
    shown: dict[tuple[str, str], list[tuple[float, tuple[str, ...]]]] = defaultdict(list)
    figures: dict[str, Counter[str]] = defaultdict(Counter)
    for exposure in exposures:
        for item, channels in zip(exposure.items, exposure.found, strict=False):
            names = tuple(channels) or ("(fallback)",)
            shown[exposure.user_id, item].append((exposure.time, names))
            _count(figures, names, "items")
    total = 0
    for user, item, when in events:
        # Events are stored in whole seconds, so that an event may seem to come before its answer.
        own = shown.get((user, item), ())
        latest = max((one for one in own if math.floor(one[0]) <= when <= one[0] + window_s), default=None)
        if latest is not None:
            total += 1
            _count(figures, latest[1], "events")
    return {
        name: {
            **{key: counted[key] for key in ("items", "items_alone", "events", "events_alone")},
            "share_of_events_alone": counted["events_alone"] / total if total else 0.0,
        }
        for name, counted in sorted(figures.items())
    }


def to_markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table for people."""
    lines = [
        "# Channels",
        "",
        "| channel | items | found alone | events | on items found alone | share of all events |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, row in found.items():
        lines.append(f"| {name} | {row['items']:,} | {row['items_alone']:,} | {row['events']:,} "
                     f"| {row['events_alone']:,} | {row['share_of_events_alone']:.2%} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def _count(figures: dict[str, Counter[str]], names: tuple[str, ...], what: str) -> None:
    for name in names:
        figures[name][what] += 1
        if len(names) == 1:
            figures[name][f"{what}_alone"] += 1
