"""An evaluation as tables; each caption states the rules that its figures were made under."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from genrecall.eval.comparisons import compare
from genrecall.eval.costs import Cost
from genrecall.eval.document import Table
from genrecall.eval.evaluation import ChannelResult, Evaluation
from genrecall.eval.metrics import headline_cut
from genrecall.eval.significance import Interval

_NAMES = {"recall": "Recall", "capped": "Capped recall", "fill": "Fill"}


def cut_of(evaluation: Evaluation) -> int:
    """The cut-off that tables put first: 10, or the largest below."""
    return headline_cut(evaluation.protocol.ks)


def headline(evaluation: Evaluation) -> str:
    """``recall@10``, or recall at the largest cut-off that is not larger."""
    return f"recall@{cut_of(evaluation)}"


def label(metric: str) -> str:
    """``ndcg@10`` as it is written: ``NDCG@10``."""
    family, cut = metric.split("@")
    return f"{_NAMES.get(family, family.upper())}@{cut}"


def rules(evaluation: Evaluation) -> str:
    """Part and protocol in brief, as the last sentence of a caption."""
    brief = evaluation.protocol.brief()
    return f"{brief[0].upper()}{brief[1:]}."


def metrics_table(evaluation: Evaluation) -> Table:
    """The main table: channels by metrics, the headline with its interval; best values bold; ± sd over seeds."""
    main, cut = headline(evaluation), cut_of(evaluation)
    names = evaluation.protocol.metric_names()
    shown = [main, *(name for name in names if name.startswith("recall@") and name != main)]
    shown += [name for name in names if name.endswith(f"@{cut}") and name != main]
    if evaluation.num_runs > 1:  # deviations take the room of a column; MRR stands in the table of every metric
        shown = [name for name in shown if not name.startswith("mrr")]
    columns = ["channel", *(label(metric) for metric in shown)]
    columns.insert(2, "95% interval")
    results = list(evaluation.results.values())
    rows = []
    for result in results:
        interval = result.metrics[main]
        cells = [_mean(result, metric) for metric in shown]
        rows.append([result.name, cells[0], f"{interval.low:.4f} – {interval.high:.4f}", *cells[1:]])
    bold = _best(rows, [1, *range(3, len(columns))], lambda cell: float(cell.split()[0]))
    caption = evaluation.sentence()
    if evaluation.num_runs > 1:
        caption += f" ± is the standard deviation over seeds; the interval resamples {_resampled(evaluation)}, "
        caption += "seeds averaged."
    return Table(columns=columns, rows=rows, bold=bold, caption=caption)


def seeds_table(evaluation: Evaluation) -> Table:
    """The headline metric and NDCG of every run on its own."""
    rows = [
        [result.name, label(metric), *(f"{value:.4f}" for value in result.by_seed(metric))]
        for metric in (headline(evaluation), f"ndcg@{cut_of(evaluation)}")
        for result in evaluation.results.values()
    ]
    caption = f"Each run on the same cases. {rules(evaluation)}"
    return Table(columns=["channel", "metric", *evaluation.runs], rows=rows, caption=caption)


def comparison_table(evaluation: Evaluation, channel: str) -> Table:
    """``channel`` against every other one, paired case by case, with p-values corrected for the table's length."""
    metrics = [headline(evaluation), f"ndcg@{cut_of(evaluation)}"]
    found = compare(evaluation, channel, metrics)
    rows = [
        [
            f"{channel} − {row.second}",
            label(row.metric),
            f"{row.difference.interval.mean:+.4f}",
            f"{row.difference.interval.low:+.4f} to {row.difference.interval.high:+.4f}",
            f"{row.adjusted:.4f}",
            _who(row.difference.interval, row.adjusted, channel, row.second),
        ]
        for row in found
    ]
    caption = (
        f"Paired bootstrap over {_resampled(evaluation)}; p after Holm, over the {len(found)} rows of this table; "
        f"ahead means p < 0.05. {rules(evaluation)}"
    )
    return Table(columns=["", "metric", "difference", "95% interval", "p (Holm)", "ahead"], rows=rows, caption=caption)


def all_metrics_table(evaluation: Evaluation) -> Table:
    """Every metric at every cut-off, one row a metric."""
    results = list(evaluation.results.values())
    rows, bold = [], set()
    for place, metric in enumerate(results[0].metrics):
        means = [result.metrics[metric].mean for result in results]
        rows.append([label(metric), *(_with_interval(result.metrics[metric]) for result in results)])
        bold |= {(place, 1 + column) for column, mean in enumerate(means) if mean == max(means)}
    one = "One target a case, so Recall@k is also HR@k. " if results[0].ranks is not None else ""
    return Table(
        columns=["metric", *(result.name for result in results)],
        rows=rows,
        bold=frozenset(bold),
        caption=f"± half the 95% interval (percentile bootstrap over {_resampled(evaluation)}, "
        f"{evaluation.resamples:,} resamples). {one}{rules(evaluation)}",
    )


def lists_table(evaluation: Evaluation) -> Table:
    """What the lists look like: coverage, Gini, novelty, diversity, invalid SIDs."""
    cut = cut_of(evaluation)
    written = {"coverage": "{:.1%}", "gini": "{:.3f}", "novelty": "{:.2f}", "diversity": "{:.3f}"}
    heads = {"coverage": f"coverage@{cut}", "gini": f"Gini@{cut}", "novelty": "novelty, bits", "diversity": "diversity"}
    results = list(evaluation.results.values())
    known = [name for name in written if f"{name}@{cut}" in results[0].lists]
    rows = [
        [
            result.name,
            *(written[name].format(result.lists[f"{name}@{cut}"]) for name in known),
            "–" if result.invalid_sid_rate is None else f"{result.invalid_sid_rate:.4%}",
        ]
        for result in results
    ]
    caption = (
        "Coverage: share of the catalog in some list. Gini of exposures: 0 all items alike, 1 one item only. Novelty: "
        "mean self-information of the items shown, by training counts."
    )
    if "diversity" in known:
        caption += " Diversity: how unlike two items of one list are, 0 to 1."
    columns = ["channel", *(heads[name] for name in known), "invalid SIDs"]
    return Table(columns=columns, rows=rows, caption=f"{caption} {rules(evaluation)}")


def cost_table(evaluation: Evaluation, costs: Mapping[str, Cost]) -> Table:
    """What the channels cost: seconds a thousand queries here, and what their training took."""
    rows = []
    for name, result in evaluation.results.items():
        pace = f"{1000 * result.seconds / evaluation.num_cases:.2f}"
        rows.append([name, f"{result.seconds:.1f}", pace, *costs.get(name, Cost()).cells()])
    columns = ["channel", "seconds", "s per 1,000 queries", "training s", "parameters", "trained on"]
    caption = f"Recall calls alone, in batches, on the machine that made this page. {rules(evaluation)}"
    return Table(columns=columns, rows=rows, caption=caption)


def slice_table(evaluation: Evaluation, group: str, metric: str | None = None) -> Table:
    """One metric (the headline unless told) by slice of one group."""
    main = metric or headline(evaluation)
    results = list(evaluation.results.values())
    rows, bold = [], set()
    for place, (name, cases) in enumerate(evaluation.slice_sizes[group].items()):
        found = [result.slices[group][name][main] for result in results]
        rows.append([name, f"{cases:,}", *(_with_interval(interval) for interval in found)])
        best = max(interval.mean for interval in found)
        bold |= {(place, 2 + column) for column, interval in enumerate(found) if interval.mean == best > 0}
    columns = [group, evaluation.protocol.unit, *(result.name for result in results)]
    caption = f"{label(main)} ± half the 95% interval. {rules(evaluation)}"
    return Table(columns=columns, rows=rows, bold=frozenset(bold), caption=caption)


def _resampled(evaluation: Evaluation) -> str:
    """What the bootstrap draws: cases of one user depend on each other."""
    return "users" if evaluation.protocol.unit == "cases" else evaluation.protocol.unit


def _mean(result: ChannelResult, metric: str) -> str:
    sd = result.deviation(metric)
    return f"{result.metrics[metric].mean:.4f}" + ("" if sd is None else f" ±{sd:.4f}")


def _who(interval: Interval, p: float, first: str, second: str) -> str:
    return "–" if p >= 0.05 else first if interval.mean > 0 else second


def _with_interval(interval: Interval) -> str:
    return f"{interval.mean:.4f} ±{(interval.high - interval.low) / 2:.4f}"


def _best(rows: list[list[str]], columns: list[int], value: Callable[[str], float]) -> frozenset[tuple[int, int]]:
    """Places of the largest value of each column; ties are all marked."""
    places = set()
    for column in columns:
        top = max(value(row[column]) for row in rows)
        places |= {(place, column) for place, row in enumerate(rows) if value(row[column]) == top > 0}
    return frozenset(places)
