"""Tokenisers compared, as one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genrecall.eval import charts
from genrecall.eval.document import Block, Facts, Figure, Report, Section, Table, Text
from genrecall.eval.significance import intervals, paired
from genrecall.sid.compare import Row

ALARMS = (
    "Collisions, use, unexplained variance and neighbours are alarms, not objectives: a figure far off says that "
    "something broke, but between healthy tokenisers these figures do not predict which one a model ranks better with. "
    "Choose by item-level recall."
)
PROXY = (
    "Recall here is that of a count model over SIDs: smoothed transition counts between SID prefixes, fitted on the "
    "training events and asked on validation cases; no test case is looked at. A hit is the target item itself, and "
    "items that share a SID are ranked by popularity: a tokeniser that gives many items one SID gains nothing by it. "
    "The count model shows what a SID table lets a model share between items, prefix by prefix; it is no trained "
    "generator, the order of close rows may change with one, and it undervalues codes that are meant to be written in "
    "parallel (opq)."
)


def page(rows: Sequence[Row], *, rule: str = "", footer: str = "") -> Report:
    """Markdown or HTML of a comparison.

    Args:
        rows: of ``sid.compare.compare``, at least one.
        rule: how the events were split, in a sentence.
        footer: digests and the machine.
    """
    asked = [row for row in rows if row.ranks is not None]
    items = len(rows[0].table.item_ids)
    sections = [_results(asked, rule)] if asked else []
    if any(row.judged is not None for row in rows):
        sections.append(_judged(rows))
    sections += [_collisions(rows), _codes(rows), _neighbours(rows), _alarms(rows)]
    return Report(
        title="Semantic IDs compared",
        summary=f"{len(rows)} tokenisers of {items:,} items. Health figures are alarms, not objectives.",
        sections=sections,
        footer=footer,
    )


def _results(rows: Sequence[Row], rule: str) -> Section:
    hits = {k: np.column_stack([_ranks(row) <= k for row in rows]).astype(np.float64) for k in (10, 50)}
    first = rows[0].ranks
    assert first is not None
    ten, fifty = intervals(hits[10], first.users), intervals(hits[50], first.users)
    best = int(np.argmax([one.mean for one in ten]))
    lines = []
    for place, row in enumerate(rows):
        gap = "–" if place == best else f"{paired(hits[10][:, place], hits[10][:, best], first.users).p_value:.3f}"
        assert row.ranks is not None
        lines.append([
            row.candidate.name, f"{ten[place].mean:.4f}", f"{ten[place].low:.4f} to {ten[place].high:.4f}",
            f"{row.ranks.ndcg(10):.4f}", f"{fifty[place].mean:.4f}",
            f"{row.ranks.recall(50, unmet=True):.4f}", gap,
        ])  # fmt: skip
    unmet = int((~first.met).sum())
    names = [row.candidate.name for row in rows]
    table = Table(
        columns=[
            "tokeniser",
            "Recall@10",
            "95% interval",
            "NDCG@10",
            "Recall@50",
            "Recall@50 unmet",
            "p against the best",
        ],
        rows=lines,
        bold=frozenset({(best, 1)}),
        caption=f"{len(hits[10]):,} validation cases, the same for every row; intervals and p (of Recall@10) by the "
        f"bootstrap over users. Unmet: the {unmet:,} cases whose target never followed an item of the history in "
        f"training, so that only shared codes can find it. {rule}",
    )
    chart = charts.bars({f"{place + 1}": one for place, one in enumerate(ten)})
    numbered = " · ".join(f"{place + 1} {name}" for place, name in enumerate(names))
    return Section(
        title="Item-level recall of a count model",
        blocks=[Text(words=PROXY), table, Figure(svg=chart, caption=f"Recall@10 by row: {numbered}.")],
    )


def _judged(rows: Sequence[Row]) -> Section:
    lines = [[row.candidate.name, "–" if row.judged is None else f"{row.judged:.4f}"] for row in rows]
    return Section(title="Judged", blocks=[Table(columns=["tokeniser", "figure of the judge"], rows=lines)])


def _collisions(rows: Sequence[Row]) -> Section:
    lines = [
        [
            row.candidate.name, row.candidate.config.collisions,
            f"{row.quality['collision_rate']['before']:.1%}", f"{row.quality['collision_rate']['after']:.1%}",
            f"{row.quality['moved']:.1%}", str(row.quality["items_per_sid"]["before"]["max"]),
            str(row.quality["items_per_sid"]["after"]["max"]), f"{row.seconds:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    columns = [
        "tokeniser", "rule", "share a SID before", "after", "moved", "most items a SID before", "after", "seconds",
    ]  # fmt: skip
    return Section(title="Collisions", blocks=[Text(words=ALARMS, kind="finding"), Table(columns=columns, rows=lines)])


def _codes(rows: Sequence[Row]) -> Section:
    lines = [
        [
            row.candidate.name, " x ".join(map(str, row.table.space.codes)),
            _by_level(row, "used"), _by_level(row, "perplexity"), _by_level(row, "prefixes"),
            f"{row.quality['reconstruction_error']['after']:.3f}",
        ]
        for row in rows
    ]  # fmt: skip
    return Section(
        title="Use of the codes",
        blocks=[
            Table(
                columns=["tokeniser", "space", "used codes", "perplexity", "prefixes", "unexplained variance"],
                rows=lines,
                caption="By level, 0 first. Unexplained variance is measured in what the quantiser was fed: compare it "
                "between rows of the same inputs only.",
            )
        ],
    )


def _neighbours(rows: Sequence[Row]) -> Section:
    lines = []
    for row in rows:
        cells = [f"{found['overlap']:.1%}" for found in row.agreement.values()]
        lines.append([row.candidate.name, *cells])
    chances = ", ".join(f"{name} {found['chance']:.2%}" for name, found in rows[0].agreement.items())
    nearest = next(iter(rows[0].agreement.values()))["k"]
    return Section(
        title="Neighbours kept",
        blocks=[
            Table(
                columns=["tokeniser", *(f"by {name}" for name in rows[0].agreement)],
                rows=lines,
                caption=f"Of an item's {nearest} nearest, the share that is nearest by SID prefix too (by chance: "
                f"{chances}). Behaviour: the vectors of the training events, for the items that have any.",
            )
        ],
    )


def _alarms(rows: Sequence[Row]) -> Section:
    lines = [[row.candidate.name, line] for row in rows for line in row.quality["alarms"]]
    blocks: list[Block] = [Table(columns=["tokeniser", "alarm"], rows=lines, words=True)]
    return Section(title="Alarms", blocks=blocks if lines else [Facts(values={"alarms": "none"})])


def _by_level(row: Row, figure: str) -> str:
    values: list[Any] = [level[figure] for level in row.quality["levels"]]
    return " / ".join(f"{value:,.0f}" for value in values)


def _ranks(row: Row) -> np.ndarray:
    assert row.ranks is not None
    return row.ranks.ranks
