"""Sections that a pipeline adds to an evaluation's report: examples, SIDs, training, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from genrecall.artifacts import Artifact
from genrecall.bundle.load import Recommendations
from genrecall.catalog.items import Items
from genrecall.eval import costs
from genrecall.eval.document import Block, Facts, Figure, Section, Table, Text, markdown
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.report import verdict
from genrecall.eval.tables import metrics_table
from genrecall.sid.plots import draw
from genrecall.sid.store import StoredSids


def summary(evaluation: Evaluation) -> str:
    """Who is ahead and the main table, as Markdown: what fits on a terminal."""
    blocks: list[Block] = [Text(words=verdict(evaluation)), metrics_table(evaluation)]
    return "\n\n".join(markdown(block) for block in blocks)


def users_section(users: Sequence[tuple[str, list[str], dict[str, str], Recommendations]], items: Items) -> Section:
    """Histories and recommendations of a few users."""
    blocks: list[Block] = []
    for user, history, profile, answer in users:
        titles = " · ".join(items.titles[items.index[item]] for item in history)
        known = ", ".join(f"{name} {value}" for name, value in profile.items())
        blocks.append(Text(words=f"User {user} ({known}) has bought: {titles}"))
        rows = [[str(n), item.title, item.sid, f"{item.score:.2f}"] for n, item in enumerate(answer.items, 1)]
        blocks.append(Table(columns=["", "the model writes", "SID", "score"], rows=rows, words=True))
    return Section(title="Examples", blocks=blocks)


def sid_section(stored: StoredSids, plots: Path) -> Section:
    """Health of the semantic IDs."""
    quality = stored.quality
    rows = [
        [str(n), str(use["codes"]), str(use["used"]), f"{use['perplexity']:.1f}"]
        for n, use in enumerate(quality["levels"])
    ]
    blocks: list[Block] = [
        Facts(
            values={
                "items": f"{len(stored.table.item_ids):,}",
                "space": " x ".join(map(str, stored.table.space.codes)),
                "collisions before": f"{quality['collision_rate']['before']:.1%}",
                "after": f"{quality['collision_rate']['after']:.1%}",
                "unexplained variance": f"{quality['reconstruction_error']['after']:.3f}",
            }
        ),
        Table(columns=["level", "codes", "used", "perplexity"], rows=rows),
    ]
    clusters = [
        [stored.table.space.token(0, cluster["code"]), str(cluster["items"]), " · ".join(cluster["titles"])]
        for cluster in quality["clusters"]
    ]
    blocks.append(Table(columns=["code", "items", "most typical titles"], rows=clusters, words=True))
    blocks += [Figure(png=file.read_bytes(), caption=file.stem.replace("_", " ")) for file in draw(quality, plots)]
    return Section(title="Semantic IDs", blocks=blocks)


def training_section(model: Artifact) -> Section:
    """Loss and validation by epoch."""
    return costs.training_section(model.file("metrics.jsonl"), model.manifest.facts)


def stages_section(seconds: Mapping[str, float]) -> Section:
    """Where the time went."""
    rows = [[name, f"{value:.1f}"] for name, value in seconds.items()]
    total = [["total", f"{sum(seconds.values()):.1f}"]]
    return Section(title="Stage times", blocks=[Table(columns=["stage", "seconds"], rows=[*rows, *total])])
