"""An evaluation told: as tables and figures, and as the one sentence that must not be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genrecall.eval import charts
from genrecall.eval.costs import Cost
from genrecall.eval.document import Block, Figure, Report, Section, Table, Text
from genrecall.eval.evaluation import PARTS, Evaluation
from genrecall.eval.search import FREQUENCY
from genrecall.eval.slices import POPULARITY, USER
from genrecall.eval.tables import (
    all_metrics_table,
    comparison_table,
    cost_table,
    cut_of,
    headline,
    label,
    lists_table,
    metrics_table,
    rules,
    seeds_table,
    slice_table,
)

_SLICES = {
    POPULARITY: "Target popularity counts training events: head is the most popular 20% of the items that have any, "
    "torso the next 30%, tail the rest, cold the items without any.",
    FREQUENCY: "Head are the most frequent 20% of the queries that are asked at all, torso the next 30%, tail the "
    "rest, unseen those that are never asked.",
    USER: "A user is new with a history of at most two events.",
}


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
    return f"The channels {channel} and {rival} cannot be told apart on these {evaluation.protocol.unit}: {figures}."


def sections(
    evaluation: Evaluation, channel: str = "generative", costs: Mapping[str, Cost] | None = None
) -> list[Section]:
    """Results, comparisons, slices, lists, calibration and details as report sections."""
    found = [_results(evaluation, channel)]
    if channel in evaluation.results and len(evaluation.results) > 1:
        found.append(Section(title="Paired comparisons", blocks=[comparison_table(evaluation, channel)]))
    found.append(_slices(evaluation))
    found.append(Section(title="Lists and cost", blocks=[lists_table(evaluation), cost_table(evaluation, costs or {})]))
    if any(result.confidence is not None for result in evaluation.results.values()):
        found.append(_calibration(evaluation))
    return [*found, Section(title="Every metric", blocks=[all_metrics_table(evaluation)])]


def evaluation_report(
    evaluation: Evaluation,
    *,
    title: str = "Evaluation",
    channel: str = "generative",
    costs: Mapping[str, Cost] | None = None,
    extra: Sequence[Section] = (),
    footer: str = "",
) -> Report:
    """A whole page: the evaluation's sections, seen from ``channel``, then ``extra`` ones.

    Args:
        evaluation: of one run or of several, of next items or of search.
        title: of the page.
        channel: whom the comparisons are about.
        costs: by channel, for those that were trained.
        extra: for example ``training_section`` and ``beam_section``.
        footer: small print.
    """
    seeds = f" x {evaluation.num_runs} seeds" if evaluation.num_runs > 1 else ""
    summary = (
        f"{len(evaluation.results)} channels{seeds}, {evaluation.num_cases:,} {PARTS[evaluation.part]} "
        f"{evaluation.protocol.unit}, {evaluation.num_items:,} items; {evaluation.protocol.brief()}."
    )
    told = [*sections(evaluation, channel, costs), *extra]
    return Report(title=title, summary=summary, sections=told, footer=footer)


def _results(evaluation: Evaluation, channel: str) -> Section:
    main, results, ks = headline(evaluation), evaluation.results, evaluation.protocol.ks
    curve = {
        name: [(float(place), result.metrics[f"recall@{k}"].mean) for place, k in enumerate(ks)]
        for name, result in results.items()
    }
    ticks = {float(place): str(k) for place, k in enumerate(ks)}
    finding = verdict(evaluation, channel)
    blocks: list[Block] = [
        *([Text(words=finding, kind="finding")] if finding else []),
        metrics_table(evaluation),
        Figure(
            svg=charts.bars({name: result.metrics[main] for name, result in results.items()}),
            caption=f"{label(main)} by channel, with 95% intervals.",
        ),
        Figure(svg=charts.lines(curve, x_label="k", y_label="Recall@k", x_ticks=ticks), caption="Recall by k."),
    ]
    if evaluation.num_runs > 1:
        blocks.append(seeds_table(evaluation))
    return Section(title="Results", blocks=blocks)


def _slices(evaluation: Evaluation) -> Section:
    main, fill = headline(evaluation), f"fill@{cut_of(evaluation)}"
    blocks: list[Block] = []
    for group, parts in evaluation.slice_sizes.items():
        series = {
            name: [result.slices[group][part][main] for part in parts] for name, result in evaluation.results.items()
        }
        labels = [f"{part}\n{cases:,} {evaluation.protocol.unit}" for part, cases in parts.items()]
        blocks += [Text(words=_SLICES[group], kind="note")] if group in _SLICES else []
        blocks += [
            Figure(svg=charts.dots(labels, series), caption=f"{label(main)} by {group}, with 95% intervals."),
            slice_table(evaluation, group),
        ]
        blocks += [slice_table(evaluation, group, fill)] if group == FREQUENCY else []
    return Section(title="Where the hits are", blocks=blocks)


def _calibration(evaluation: Evaluation) -> Section:
    cut = cut_of(evaluation)
    found = {name: told for name in evaluation.results if (told := evaluation.calibration(name, cut)) is not None}
    rows = []
    for name, told in found.items():
        cases = sum(part.cases for part in told.bins)
        mean = sum(part.cases * part.confidence for part in told.bins) / max(cases, 1)
        hits = sum(part.cases * part.hits for part in told.bins) / max(cases, 1)
        expected = [f"{mean:.4f}" if told.probability else "–", f"{hits:.4f}"]
        ends = [f"{part.hits:.4f}" for part in (told.bins[0], told.bins[-1])] if told.bins else ["–", "–"]
        rows.append([name, "–" if told.error is None else f"{told.error:.4f}", *expected, *ends])
    sure = {
        name: [(part.confidence, part.hits) for part in told.bins if told.probability] for name, told in found.items()
    }
    order = {
        name: [(float(place), part.hits) for place, part in enumerate(told.bins, 1) if len(told.bins) > 1]
        for name, told in found.items()
    }  # a channel without points keeps its place, so that all charts of the page share their colours
    blocks: list[Block] = []
    if any(sure.values()):
        top = max(x for points in sure.values() for x, _ in points)
        chart = charts.lines({**sure, "perfect": [(0.0, 0.0), (top, top)]}, x_label="expected", y_label="share of hits")
        blocks.append(Figure(svg=chart, caption=f"Expected hits (probability of the first {cut} items) and real ones."))
    if any(order.values()):
        chart = charts.lines(order, x_label="from the least to the most confident lists", y_label="share of hits")
        blocks.append(Figure(svg=chart, caption=f"Hits among the first {cut} by confidence of the list."))
    caption = (
        "ECE: expected calibration error, told where scores are log-probabilities: confidence is then the probability "
        f"of the first {cut} items, else the score of the first item, of which only the order counts. Probability of "
        f"excluded items is not given to the others. {rules(evaluation)}"
    )
    columns = ["channel", f"ECE@{cut}", "expected", "hits", "hits, least confident", "hits, most confident"]
    blocks.append(Table(columns=columns, rows=rows, caption=caption))
    return Section(title="Calibration", blocks=blocks)
