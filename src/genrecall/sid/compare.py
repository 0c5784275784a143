"""Several tokenisers of one catalog, built and measured alike.

Health figures (collisions, perplexity, unexplained variance, neighbours) are alarms, not objectives: they do not
predict the recall of a trained model (arXiv:2609.24430). What decides is item-level recall, here that of a count model
that costs seconds (see ``proxy``), and of any ``judge`` that the caller brings, such as one that trains a generator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from genrecall.catalog.split import Split
from genrecall.errors import ConfigError
from genrecall.sid.behaviour import Behaviour
from genrecall.sid.build import ItemVectors, Quantized, behaviour_for, quantize, resolve
from genrecall.sid.config import SidConfig
from genrecall.sid.neighbours import Nearest
from genrecall.sid.normaliser import Normaliser
from genrecall.sid.proxy import ProxyConfig, ProxyRanks, proxy_ranks
from genrecall.sid.quality import QualityConfig
from genrecall.sid.table import SidTable
from genrecall.telemetry import log, progress

ALIGNMENT = 1.0
BALANCE = 1.5
Judge = Callable[[SidTable], float]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One tokeniser to compare.

    Attributes:
        name: in the report.
        config: how its SIDs are made.
        shuffled: deal its codes to the items at random: the control that knows nothing of the items.
    """

    name: str
    config: SidConfig
    shuffled: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """What one tokeniser came to.

    Attributes:
        candidate: the tokeniser.
        table: its SIDs.
        quality: the report of ``quality.report``, in the space that its quantiser was fed.
        agreement: share of the nearest items by "text" and by "behaviour" that are nearest by SID prefix too: the same
            two spaces for all tokenisers.
        ranks: of the validation targets under the count model; None without events.
        judged: what the judge said; None without one.
        seconds: of fitting, encoding and resolving collisions; candidates that differ in their rule for collisions
            alone share the fit and count it each.
    """

    candidate: Candidate
    table: SidTable
    quality: dict[str, Any]
    agreement: dict[str, dict[str, Any]]
    ranks: ProxyRanks | None
    judged: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; without the table."""
        proxy = None
        if self.ranks is not None:
            found = {f"recall@{k}": self.ranks.recall(k) for k in (10, 50)}
            proxy = {"cases": len(self.ranks.ranks), **found, "ndcg@10": self.ranks.ndcg(10)}
            proxy |= {"unmet": int((~self.ranks.met).sum()), "recall@50, unmet": self.ranks.recall(50, unmet=True)}
        return {
            "name": self.candidate.name,
            "config": asdict(self.candidate.config),
            "shuffled": self.candidate.shuffled,
            "quality": {name: value for name, value in self.quality.items() if name != "clusters"},
            "agreement": self.agreement,
            "proxy": proxy,
            "judged": self.judged,
            "seconds": round(self.seconds, 1),
        }


def default_candidates(base: SidConfig, *, events: bool) -> tuple[Candidate, ...]:
    """The named set: quantisers, ways to bring in behaviour, rules for collisions, and a control.

    Args:
        base: levels, codes, seed and the quantisers' settings; its collaborative weight where above 0, else 0.5.
        events: whether there are training events; without them all use text alone.
    """
    text = replace(base, quantizer="rq_vae", collaborative_weight=0.0, collisions="reassign")
    weight = (base.collaborative_weight or 0.5) if events else 0.0
    fused = replace(text, collaborative_weight=weight)
    found = {"rq_vae, text": text}
    if events:
        strength = base.rq_vae.alignment_weight or ALIGNMENT
        found["rq_vae, text + behaviour"] = fused
        found["rq_vae, text aligned with behaviour"] = replace(
            text, rq_vae=replace(base.rq_vae, alignment_weight=strength)
        )
    suffix = ", text + behaviour" if events else ", text"
    kmeans = replace(fused, quantizer="rq_kmeans")
    balanced = replace(base.rq_kmeans, balance=base.rq_kmeans.balance or BALANCE)
    found |= {
        f"rq_kmeans{suffix}": kmeans,
        f"rq_kmeans balanced{suffix}": replace(kmeans, rq_kmeans=balanced),
        f"fsq{suffix}": replace(fused, quantizer="fsq"),
        f"pq{suffix}": replace(fused, quantizer="pq", pq=replace(base.pq, rotation="axes")),
        f"opq{suffix}": replace(fused, quantizer="pq", pq=replace(base.pq, rotation="opq")),
    }
    for rule in ("sinkhorn", "extra_level", "keep"):
        found[f"rq_kmeans{suffix}; {rule}"] = replace(kmeans, collisions=rule)
    control = Candidate(name="control: the SIDs of rq_kmeans, dealt at random", config=kmeans, shuffled=True)
    return (*(Candidate(name=name, config=config) for name, config in found.items()), control)


def compare(
    vectors: ItemVectors,
    candidates: Sequence[Candidate],
    *,
    split: Split | None = None,
    behaviour: Behaviour | None = None,
    proxy: ProxyConfig | None = None,
    judge: Judge | None = None,
) -> list[Row]:
    """Build and measure every candidate, in the order given.

    Args:
        vectors: of the catalog's items.
        candidates: tokenisers.
        split: of the catalog's events. Its training part feeds behaviour, its validation part the count model; the
            test part is not looked at.
        behaviour: collaborative vectors to use instead of our own.
        proxy: settings of the count model.
        judge: asked for one figure a table, the higher the better.
    """
    if split is None and any(candidate.config.needs_behaviour for candidate in candidates) and behaviour is None:
        raise ConfigError(
            "some of these tokenisers need training events", seen="no events", allowed="a catalog with events",
            fix="import events with the catalog, or compare tokenisers of text alone",
        )  # fmt: skip
    train = split.train if split is not None else None
    known = behaviour or _own_behaviour(candidates, vectors, split)
    near = _near(vectors.matrix, known)
    fits: dict[SidConfig, tuple[Quantized, float]] = {}
    rows = []
    for candidate in candidates:
        log(f"• {candidate.name}")
        config = candidate.config
        key = replace(config, collisions="keep")
        if key not in fits:
            start = time.perf_counter()
            made = quantize(vectors.matrix, config, behaviour_for(config, len(vectors.matrix), train, behaviour))
            fits[key] = made, time.perf_counter() - start
        made, seconds = fits[key]
        start = time.perf_counter()
        if candidate.shuffled:
            made = replace(made, codes=np.random.default_rng(config.seed).permutation(made.codes))
        table, found = resolve(made, config, vectors.item_ids)
        seconds += time.perf_counter() - start
        ranks = None
        if split is not None and len(split.valid):
            with progress("asking the count model") as bar:
                ranks = proxy_ranks(table.sids, split, proxy, bar=bar)
        rows.append(
            Row(
                candidate=candidate,
                table=table,
                quality=found,
                agreement={name: nearest.overlap(table.sids[those]) for name, (those, nearest) in near.items()},
                ranks=ranks,
                judged=judge(table) if judge is not None else None,
                seconds=seconds,
            )
        )
    return rows


def _own_behaviour(candidates: Sequence[Candidate], vectors: ItemVectors, split: Split | None) -> Behaviour | None:
    if split is None or not len(split.train.items):
        return None
    config = candidates[0].config
    return Behaviour.factorised(split.train, len(vectors.matrix), config=config.collaborative, seed=config.seed)


def _near(text: np.ndarray, behaviour: Behaviour | None) -> dict[str, tuple[np.ndarray, Nearest]]:
    """By the vectors' name: of which rows they are, and which of these are near each other."""
    asked = QualityConfig()
    options = {"neighbours": asked.neighbours, "queries": asked.queries, "seed": asked.seed}
    found = {"text": (np.arange(len(text)), Nearest.of(text, Normaliser.fit(text), **options))}
    if behaviour is not None and behaviour.known.any():
        matrix = behaviour.matrix[behaviour.known]
        normaliser = Normaliser.fit(matrix, "scalar")
        found["behaviour"] = np.flatnonzero(behaviour.known), Nearest.of(matrix, normaliser, **options)
    return found
