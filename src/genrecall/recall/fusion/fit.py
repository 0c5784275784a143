"""Which fusion, with which parameters: fitted on one half of the validation cases, chosen on the other, fitted on both.

    method*, setting* = argmax_{method, setting}  NDCG@10 on the select half of (parameters fitted on the fit half)

Hold-out model selection (Hastie, Tibshirani & Friedman, "The Elements of Statistical Learning", 2009, §7.2). Deviation:
cases are dealt to the halves by user, because one user's cases depend on each other. The channels must not have been
trained on these cases' targets, or the fusion learns to trust what they remember.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.fusion.calibration import fit_calibration
from genrecall.recall.fusion.channel import FusedChannel
from genrecall.recall.fusion.learned import LearnedConfig, fit_scorer
from genrecall.recall.fusion.pool import Pool
from genrecall.recall.fusion.rule import Fusion, FusionConfig, Method, lifts
from genrecall.recall.fusion.weights import climb, reciprocal_ranks
from genrecall.recall.selection import Popularity
from genrecall.recall.tuning import ndcg
from genrecall.telemetry import log

_BATCH = 512
_TRIED: tuple[Method, ...] = ("rrf", "weighted", "learned")
_CLIMBS = 2


@dataclass(frozen=True, kw_only=True)
class FusionFit:
    """Settings of the fit.

    Attributes:
        methods: that are tried.
        top: places of each list that count.
        constants: k of ``rrf``.
        learned: settings of ``learned``.
        seed: of the halves.
        device: where ``learned`` is fitted.
    """

    methods: tuple[Method, ...] = _TRIED
    top: int = 100
    constants: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0, 60.0)
    learned: tuple[LearnedConfig, ...] = field(
        default=(LearnedConfig(hidden=0, members=1), LearnedConfig(), LearnedConfig(decay=1e-2))
    )
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.methods or not set(self.methods) <= set(_TRIED):
            raise ConfigError(
                "a fusion cannot be chosen among these",
                seen=", ".join(self.methods) or "no methods",
                allowed=", ".join(_TRIED),
                fix="name some of these",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Half:
    """One half: the pool of the cases whose target some channel lists, and how many cases there are in all."""

    pool: Pool
    goals: np.ndarray
    lengths: np.ndarray
    cases: int

    def figures(self, places: np.ndarray) -> dict[str, float]:
        return {
            "ndcg@10": ndcg(places) * len(places) / self.cases,
            "recall@10": float(((places > 0) & (places <= 10)).sum() / self.cases),
            "recall@50": float(((places > 0) & (places <= 50)).sum() / self.cases),
        }


def fit_fusion(
    channels: Sequence[Channel],
    queries: Sequence[Query],
    targets: np.ndarray,
    *,
    counts: np.ndarray,
    users: np.ndarray | None = None,
    facts: np.ndarray | None = None,
    config: FusionFit | None = None,
) -> FusedChannel:
    """Ask every channel and fit on what it answers; arguments as in :func:`fit_on_candidates`."""
    config = config or FusionFit()
    candidates = {}
    for channel in channels:
        blocks = [channel.recall(queries[b : b + _BATCH], config.top) for b in range(0, len(queries), _BATCH)]
        candidates[channel.name] = Candidates(
            items=np.concatenate([block.items for block in blocks]),
            scores=np.concatenate([block.scores for block in blocks]),
        )
    lengths = np.array([len(query.history) for query in queries])
    fusion = fit_on_candidates(
        candidates, targets, counts=counts, lengths=lengths, users=users, facts=facts, config=config
    )
    return FusedChannel(channels, fusion)


def fit_on_candidates(
    candidates: Mapping[str, Candidates],
    targets: np.ndarray,
    *,
    counts: np.ndarray,
    lengths: np.ndarray | None = None,
    users: np.ndarray | None = None,
    facts: np.ndarray | None = None,
    config: FusionFit | None = None,
) -> Fusion:
    """Choose a fusion of channels that have answered already.

    Args:
        candidates: each channel's lists for the same N validation cases, by name.
        targets: int (N,) the cases' answers.
        counts: (I,) training events by item.
        lengths: int (N,) events in each history; zero if None.
        users: int (N,) whose case it is; each its own if None.
        facts: the items' ``recency``, for ``learned``; None leaves it out.
        config: settings.

    Returns:
        The kind of fusion with the best NDCG@10 on the select half, fitted again on all cases; its ``report`` holds the
        halves' figures of all that were tried.

    Raises:
        ConfigError: no channel, or too few cases whose target some channel lists.
    """
    config, start = config or FusionFit(), time.perf_counter()
    FusionConfig(channels=tuple(candidates), top=config.top)  # refuses what could not be fused
    names = sorted(candidates)  # so that no figure depends on the order in which channels are given
    popularity = Popularity(np.asarray(counts, dtype=np.float64))
    lists = [candidates[name] for name in names]
    lengths = np.zeros(len(targets), np.int64) if lengths is None else lengths
    dealt = halves(np.arange(len(targets)) if users is None else users, config.seed)
    every = np.arange(len(targets))
    fitted, select, whole = (_half(lists, targets, lengths, popularity, rows, config.top) for rows in (*dealt, every))
    tried: list[tuple[Fusion, dict[str, Any]]] = []
    for fusion, settings in _fusions(names, fitted, config, facts):
        figures = [
            half.figures(half.pool.places(fusion.values(half.pool, half.lengths), half.goals))
            for half in (select, fitted)
        ]
        row: dict[str, Any] = {
            "method": fusion.config.method,
            "settings": settings,
            **figures[0],
            "ndcg@10 on the fit half": figures[1]["ndcg@10"],
        }
        tried.append((fusion, row))
        log(f"fusion: {fusion.config.method} {settings} NDCG@10 {figures[0]['ndcg@10']:.4f}")
    chosen, row = max(tried, key=lambda pair: float(pair[1]["ndcg@10"]))
    best = _again(names, whole, chosen, row["settings"], config, facts)
    best.report |= {
        **row,
        "channels": {
            name: {
                **select.figures(select.pool.ranks[select.goals, channel]),
                "weight": None if best.scorer else float(best.weights[channel]),
                **({} if not best.calibrations else asdict(best.calibrations[channel])),
            }
            for channel, name in enumerate(names)
        },
        "tried": [row for _, row in tried],
        "cases": {"fit": fitted.cases, "select": select.cases},
        "union recall": {"fit": len(fitted.goals) / fitted.cases, "select": len(select.goals) / select.cases},
        "top": config.top,
        "seconds": round(time.perf_counter() - start, 2),
    }
    return best


def halves(users: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the cases of one half of the users and of the other, ascending."""
    distinct, place = np.unique(users, return_inverse=True)
    first = np.random.default_rng(seed).permutation(len(distinct)) < (len(distinct) + 1) // 2
    return np.flatnonzero(first[place]), np.flatnonzero(~first[place])


def _half(
    lists: Sequence[Candidates],
    targets: np.ndarray,
    lengths: np.ndarray,
    popularity: Popularity,
    rows: np.ndarray,
    top: int,
) -> _Half:
    listed = np.logical_or.reduce([(answer.items[rows, :top] == targets[rows, None]).any(1) for answer in lists])
    found = rows[listed]
    pool = Pool.of([Candidates(items=a.items[found], scores=a.scores[found]) for a in lists], popularity, top)
    known = np.flatnonzero(pool.known[pool.find(targets[found])])  # not only listed to fill a list up
    found, pool = found[known], pool.take(known)
    if len(found) == 0:
        raise ConfigError(
            "there is nothing to learn a fusion from",
            seen=f"{len(rows)} cases, none with its target in any channel's first {top}",
            allowed="at least one such case in each half of the users",
            fix="give more validation cases, longer lists or better channels; or fuse by FusionConfig(method='rrf')",
        )
    return _Half(pool=pool, goals=pool.find(targets[found]), lengths=lengths[found], cases=len(rows))


def _fusions(
    names: Sequence[str], half: _Half, config: FusionFit, facts: np.ndarray | None
) -> Iterator[tuple[Fusion, dict[str, Any]]]:
    """Fitted fusions, the plainest first, and what to call their settings."""
    pool, counts = half.pool, half.pool.popularity.counts
    if "rrf" in config.methods:
        plain = {}
        for constant in config.constants:
            fusion = Fusion(FusionConfig(channels=names, top=config.top, constant=constant), counts)
            plain[constant] = half.figures(pool.places(fusion.values(pool), half.goals))["ndcg@10"]
            yield fusion, {"constant": constant, "weights": "equal"}
        for constant in sorted(plain, key=lambda constant: -plain[constant])[:_CLIMBS]:
            settings = FusionConfig(channels=names, top=config.top, constant=constant)
            weights = climb(pool, reciprocal_ranks(pool, constant), half.goals)
            yield Fusion(settings, counts, weights=weights), {"constant": constant, "weights": _named(names, weights)}
    calibrations = [fit_calibration(pool, channel, half.goals, half.cases) for channel in range(len(names))]
    scales = tuple(calibration.scale for calibration in calibrations)
    if "weighted" in config.methods:
        settings = FusionConfig(channels=names, method="weighted", top=config.top, scales=scales)
        values = lifts(pool, calibrations)
        yield Fusion(settings, counts, calibrations=calibrations), {"weights": "equal"}
        weights = climb(pool, values, half.goals)
        yield Fusion(settings, counts, weights=weights, calibrations=calibrations), {"weights": _named(names, weights)}
    if "learned" in config.methods:
        settings = FusionConfig(channels=names, method="learned", top=config.top, scales=scales)
        mean_length = float(np.log1p(half.lengths).mean())
        for learned in config.learned:
            known = (pool, calibrations, half.lengths, mean_length, half.goals)
            scorer = fit_scorer(*known, learned, config.device, facts)
            fusion = Fusion(
                settings, counts, calibrations=calibrations, scorer=scorer, mean_length=mean_length, facts=facts
            )
            yield fusion, asdict(learned)


def _again(
    names: Sequence[str],
    whole: _Half,
    chosen: Fusion,
    settings: Mapping[str, Any],
    config: FusionFit,
    facts: np.ndarray | None,
) -> Fusion:
    """The chosen kind of fusion with parameters of all cases."""
    method = chosen.config.method
    only = replace(
        config,
        methods=(method,),
        constants=(chosen.config.constant,),
        learned=(LearnedConfig(**settings),) if method == "learned" else (),
    )
    fusions = [fusion for fusion, _ in _fusions(names, whole, only, facts)]
    return fusions[0 if settings.get("weights") == "equal" else -1]


def _named(names: Sequence[str], weights: np.ndarray) -> dict[str, float]:
    return dict(zip(names, weights.tolist(), strict=True))
