"""How healthy a SID table is, in figures: alarms, not objectives (arXiv:2609.24430: no help for NDCG).

    perplexity = exp(−Σ_k p_k log p_k)

Source: the usual codebook statistics (van den Oord et al. 2017, arXiv:1711.00937). No deviation; errors and neighbours
are measured in the quantiser's own normalised input space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrecall.sid.neighbours import Nearest
from genrecall.sid.placement import distinct_rows
from genrecall.sid.quantizer import Quantizer
from genrecall.sid.reconstruction import Reconstruction
from genrecall.sid.space import SidSpace
from genrecall.telemetry import Bar

STARVED = 0.5


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Settings of the report: ``neighbours`` k, ``queries`` sampled items, ``clusters`` named level-0 codes."""

    neighbours: int = 10
    queries: int = 1000
    clusters: int = 8
    titles_per_cluster: int = 5
    seed: int = 0


def report(
    *,
    codes: np.ndarray,
    sids: np.ndarray,
    space: SidSpace,
    quantizer: Quantizer,
    vectors: np.ndarray,
    titles: Sequence[str] | None = None,
    config: QualityConfig | None = None,
    bar: Bar | None = None,
) -> dict[str, Any]:
    """Everything ``genrecall sid inspect`` shows, from one pass over the vectors, of which the bar counts the rows.

    Args:
        codes: int32 (I, L) as the quantiser gave them.
        sids: int32 (I, L') after collisions were dealt with.
        space: of ``sids``.
        quantizer: fitted.
        vectors: float (I, D) that were quantised.
        titles: I titles, for the named clusters.
    """
    config = config or QualityConfig()
    plain = sids[:, : quantizer.levels]  # an extra level numbers items and stands for no vector
    errors = Reconstruction(quantizer, codes, plain)
    nearest = Nearest(
        vectors, quantizer.normaliser, neighbours=config.neighbours, queries=config.queries, seed=config.seed
    )
    for rows in quantizer.normaliser.chunks(vectors):
        errors.see(rows)
        nearest.see(rows)
        if bar is not None:
            bar.advance(len(rows))
    before, (distinct, after) = owners(codes)[1], owners(sids)
    found = {
        "items": len(sids),
        "space": list(space.codes),
        "levels": [
            {**level_use(sids[:, level], size), **prefix_use(distinct, after, level)}
            for level, size in enumerate(space.codes)
        ],
        "collision_rate": {"before": collision_rate(before), "after": collision_rate(after)},
        "moved": float((codes != plain).any(1).mean()),
        "items_per_sid": {"before": items_per_sid(before), "after": items_per_sid(after)},
        "reconstruction_error": errors.shares(),
        "neighbours": nearest.overlap(sids),
        "clusters": clusters(sids, errors.first, titles, config) if titles is not None else [],
    }
    return {**found, "alarms": alarms(found)}


def alarms(found: dict[str, Any]) -> list[str]:
    """What a person should look at before training on these SIDs; empty when nothing stands out."""
    lines = []
    first = found["levels"][0]
    possible = min(first["codes"], found["items"])
    if first["used"] < STARVED * possible:
        lines.append(
            f"the first level is starved: {first['used']} of {possible} usable codes are used; a low collision rate "
            "hides this. Standardise the vectors, try --quantizer rq_kmeans, or lower --codes"
        )
    if found["collision_rate"]["before"] > 0.5:
        lines.append(
            f"{found['collision_rate']['before']:.0%} of the items shared their SID before collisions were resolved, "
            "so their last codes carry no meaning. Raise --levels or --codes, or give the items more text"
        )
    if found["reconstruction_error"]["after"] > 0.9:
        lines.append("the SIDs explain under a tenth of the vectors' variance: they are close to random")
    return lines


def level_use(codes: np.ndarray, size: int) -> dict[str, Any]:
    """How one level's ``size`` codes are used."""
    counts = np.bincount(codes, minlength=size)
    used = int((counts > 0).sum())
    return {
        "codes": size,
        "used": used,
        "dead": size - used,
        "perplexity": float(np.exp(_entropy(counts))),
        "largest_share": float(counts.max() / max(counts.sum(), 1)),
        "counts": np.sort(counts)[::-1].tolist(),
    }


def owners(sids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct SIDs in lexicographic order, and how many items have each."""
    distinct, which = distinct_rows(sids)
    return distinct, np.bincount(which)


def prefix_use(distinct: np.ndarray, counts: np.ndarray, level: int) -> dict[str, Any]:
    """Prefixes up to and with ``level``: how many, their entropy, and how many items have no choice at this level.

    ``distinct``, ``counts``: what ``owners`` gives.
    """
    begins, parent_begins = (
        np.append(True, (distinct[1:, :depth] != distinct[:-1, :depth]).any(1)) for depth in (level + 1, level)
    )
    counts = np.add.reduceat(counts, np.flatnonzero(begins))
    parent = parent_begins[begins].cumsum() - 1
    forced = np.bincount(parent)[parent] == 1
    return {
        "prefixes": len(counts),
        "prefix_entropy_bits": _entropy(counts) / float(np.log(2)),
        "forced_items": float(counts[forced].sum() / max(counts.sum(), 1)),
    }


def collision_rate(counts: np.ndarray) -> float:
    """Share of the items whose SID another item has too, from the number of items of every SID."""
    return float(counts[counts > 1].sum() / max(counts.sum(), 1))


def items_per_sid(counts: np.ndarray) -> dict[str, Any]:
    """Mean, maximum, and how many SIDs have 1, 2, 3, … items."""
    sizes, frequency = np.unique(counts, return_counts=True)
    histogram = {str(size): int(n) for size, n in zip(sizes, frequency, strict=True)}
    return {"mean": float(counts.mean()), "max": int(counts.max()), "histogram": histogram}


def clusters(sids: np.ndarray, gaps: np.ndarray, titles: Sequence[str], config: QualityConfig) -> list[dict[str, Any]]:
    """The largest level-0 codes, each with the titles of the items nearest to what the code stands for.

    ``gaps``: float (I,), from each item to what its code stands for.
    """
    counts = np.bincount(sids[:, 0])
    found = []
    for code in np.argsort(-counts, kind="stable")[: config.clusters]:
        members = np.flatnonzero(sids[:, 0] == code)
        if not len(members):
            break
        # Some catalogs have many copies of one title; naming it once says as much.
        named = list(dict.fromkeys(titles[i] for i in members[np.argsort(gaps[members], kind="stable")]))
        found.append({"code": int(code), "items": len(members), "titles": named[: config.titles_per_cluster]})
    return found


def _entropy(counts: np.ndarray) -> float:
    """In nats."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())
