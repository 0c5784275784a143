"""An evaluation told: as tables and figures, and as the one sentence that must not be missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from genrecall.eval import charts
from genrecall.eval.document import Figure, Report, Section, Table, Text
from genrecall.eval.harness import ChannelResult, Evaluation
from genrecall.eval.significance import Interval

HEADLINE = "recall@10"


def verdict(evaluation: Evaluation, channel: str = "generative", metric: str | None = None) -> str:
    """How ``channel`` stands against the best of the others, with a paired bootstrap; empty if it has no rival.

    Args:
        evaluation: with ``channel`` and at least one other.
        channel: usually the generative one.
        metric: Recall@10 unless told, or the largest cut-off below.
    """
    metric = metric or headline(evaluation)
    rivals = {name: result.metrics[metric].mean for name, result in evaluation.results.items() if name != channel}
    if channel not in evaluation.results or not rivals:
        return ""
    rival = max(rivals, key=lambda name: rivals[name])
    ours = evaluation.results[channel].metrics[metric].mean
    found = evaluation.difference(channel, rival, metric)
    low, high = found.interval.low, found.interval.high
    figures = (
        f"{label(metric)} {ours:.4f} against {rivals[rival]:.4f}, paired difference {found.interval.mean:+.4f}, "
        f"95% interval {low:+.4f} to {high:+.4f}, p = {found.p_value:.3f}"
    )
    if low > 0:
        return f"The channel {channel} is ahead of the best other channel, {rival}: {figures}."
    if high < 0:
        share = f"{ours / rivals[rival]:.0%}" if rivals[rival] else "none"
        return f"A simpler channel is ahead: {rival} beats {channel}, which reaches {share} of it ({figures})."
    return f"The channels {channel} and {rival} cannot be told apart on these cases: {figures}."


def headline(evaluation: Evaluation) -> str:
    """``recall@10``, or recall at the largest cut-off that is not larger."""
    ks = [k for k in evaluation.protocol.ks if k <= 10] or [evaluation.protocol.ks[0]]
    return f"recall@{ks[-1]}"


def label(metric: str) -> str:
    """``ndcg@10`` as it is written: ``NDCG@10``."""
    family, cut = metric.split("@")
    return f"{'Recall' if family == 'recall' else family.upper()}@{cut}"


def metrics_table(evaluation: Evaluation) -> Table:
    """The main table: channels by metrics, the headline with its interval; best values bold."""
    ks = evaluation.protocol.ks
    main = headline(evaluation)
    shown = [main, *(f"recall@{k}" for k in ks if f"recall@{k}" != main)]
    shown += [f"{family}@{main.split('@')[1]}" for family in ("ndcg", "mrr")]
    columns = ["channel", *(label(metric) for metric in shown)]
    columns.insert(2, "95% interval")
    results = list(evaluation.results.values())
    rows = []
    for result in results:
        cells = [f"{result.metrics[metric].mean:.4f}" for metric in shown]
        interval = result.metrics[main]
        rows.append([result.name, cells[0], f"{interval.low:.4f} – {interval.high:.4f}", *cells[1:]])
    bold = _best(rows, [1, *range(3, len(columns))], lambda cell: float(cell))
    return Table(columns=columns, rows=rows, bold=bold, caption=evaluation.sentence())


def all_metrics_table(evaluation: Evaluation) -> Table:
    """Every metric at every cut-off, one row a metric."""
    results = list(evaluation.results.values())
    rows, bold = [], set()
    for place, metric in enumerate(results[0].metrics):
        means = [result.metrics[metric].mean for result in results]
        rows.append([label(metric), *(_with_interval(result.metrics[metric]) for result in results)])
        bold |= {(place, 1 + column) for column, mean in enumerate(means) if mean == max(means)}
    return Table(
        columns=["metric", *(result.name for result in results)],
        rows=rows,
        bold=frozenset(bold),
        caption=f"With 95% intervals (percentile bootstrap over users, {evaluation.resamples:,} resamples). "
        f"One target a case, so Recall@k is also HR@k. {_rules(evaluation)}",
    )


def lists_table(evaluation: Evaluation) -> Table:
    """What the lists look like and cost: coverage, Gini, invalid SIDs, time."""
    cut = int(headline(evaluation).split("@")[1])
    rows = []
    for result in evaluation.results.values():
        rate = "–" if result.invalid_sid_rate is None else f"{result.invalid_sid_rate:.4%}"
        pace = f"{1000 * result.seconds / evaluation.num_cases:.2f}"
        rows.append(
            [result.name, f"{result.coverage[cut]:.1%}", f"{result.gini[cut]:.3f}", rate, f"{result.seconds:.1f}", pace]
        )
    columns = ["channel", f"coverage@{cut}", f"Gini@{cut}", "invalid SIDs", "seconds", "ms a case"]
    caption = "Coverage: share of the catalog in some list. Gini of exposures: 0 all items alike, 1 one item only."
    return Table(columns=columns, rows=rows, caption=f"{caption} {_rules(evaluation)}")


def slice_table(evaluation: Evaluation, group: str) -> Table:
    """The headline metric by slice of one group."""
    main = headline(evaluation)
    results = list(evaluation.results.values())
    rows, bold = [], set()
    for place, (name, cases) in enumerate(evaluation.slice_sizes[group].items()):
        found = [result.slices[group][name][main] for result in results]
        rows.append([name, f"{cases:,}", *(_with_interval(interval) for interval in found)])
        best = max(interval.mean for interval in found)
        bold |= {(place, 2 + column) for column, interval in enumerate(found) if interval.mean == best > 0}
    columns = [group, "cases", *(result.name for result in results)]
    caption = f"{label(main)} ± half the 95% interval. {_rules(evaluation)}"
    return Table(columns=columns, rows=rows, bold=frozenset(bold), caption=caption)


def sections(evaluation: Evaluation, channel: str = "generative") -> list[Section]:
    """Results, slices and details as report sections."""
    main, results = headline(evaluation), evaluation.results
    curve = {
        name: [(float(place), result.metrics[f"recall@{k}"].mean) for place, k in enumerate(evaluation.protocol.ks)]
        for name, result in results.items()
    }
    ticks = {float(place): str(k) for place, k in enumerate(evaluation.protocol.ks)}
    finding = verdict(evaluation, channel)
    first = Section(
        title="Results",
        blocks=[
            *([Text(words=finding, kind="finding")] if finding else []),
            metrics_table(evaluation),
            Figure(
                svg=charts.bars({name: result.metrics[main] for name, result in results.items()}),
                caption=f"{label(main)} by channel, with 95% intervals.",
            ),
            Figure(svg=charts.lines(curve, x_label="k", y_label="Recall@k", x_ticks=ticks), caption="Recall by k."),
            lists_table(evaluation),
        ],
    )
    return [
        first,
        _slices(evaluation, results, main),
        Section(title="Every metric", blocks=[all_metrics_table(evaluation)]),
    ]


def _slices(evaluation: Evaluation, results: Mapping[str, ChannelResult], main: str) -> Section:
    blocks: list[Text | Figure | Table] = [
        Text(
            words="Target popularity counts training events: head is the most popular 20% of the items that have any, "
            "torso the next 30%, tail the rest, cold the items without any.",
            kind="note",
        )
    ]
    for group, parts in evaluation.slice_sizes.items():
        series = {name: [result.slices[group][part][main] for part in parts] for name, result in results.items()}
        labels = [f"{part}\n{cases:,} cases" for part, cases in parts.items()]
        blocks += [
            Figure(svg=charts.dots(labels, series), caption=f"{label(main)} by {group}, with 95% intervals."),
            slice_table(evaluation, group),
        ]
    return Section(title="Where the hits are", blocks=blocks)


def evaluation_report(
    evaluation: Evaluation,
    *,
    title: str = "Evaluation",
    channel: str = "generative",
    extra: Sequence[Section] = (),
    footer: str = "",
) -> Report:
    """A whole page: the evaluation's sections, seen from ``channel``, then ``extra`` ones."""
    protocol = evaluation.protocol
    summary = (
        f"{len(evaluation.results)} channels, {evaluation.num_cases:,} {protocol.part} cases, "
        f"{evaluation.num_items:,} items; {protocol.brief()}."
    )
    return Report(title=title, summary=summary, sections=[*sections(evaluation, channel), *extra], footer=footer)


def _rules(evaluation: Evaluation) -> str:
    """The protocol in brief, as the last sentence of a caption."""
    brief = evaluation.protocol.brief()
    return f"{brief[0].upper()}{brief[1:]}."


def _with_interval(interval: Interval) -> str:
    return f"{interval.mean:.4f} ±{(interval.high - interval.low) / 2:.4f}"


def _best(rows: list[list[str]], columns: list[int], value: Callable[[str], float]) -> frozenset[tuple[int, int]]:
    """Places of the largest value of each column; ties are all marked."""
    places = set()
    for column in columns:
        top = max(value(row[column]) for row in rows)
        places |= {(place, column) for place, row in enumerate(rows) if value(row[column]) == top > 0}
    return frozenset(places)
