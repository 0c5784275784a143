"""How several channels' lists become one: fitted parameters, on arrays alone.

    rrf       value(j) = Σ_c w_c / (k + place_c(j))
    scores    value(j) = Σ_c w_c n_c(j),   n_c(j) = 1/n + (1 − 1/n) (s_c(j) − min s_c) / (max s_c − min s_c)
    quota     value(j) = max_c w_c / place_c(j)
    weighted  value(j) = Σ_c w_c lift_c(j)
    learned   value(j) = f(features(j))

Cormack, Clarke & Büttcher (SIGIR 2009); CombSUM of Fox & Shaw (TREC-2, 1993) with the min–max normalisation of Lee,
"Analyses of multiple evidence combination" (SIGIR 1997); stride scheduling (Waldspurger & Weihl, 1995: channel c is
due for the r-th time at r / w_c, so that its share of the first places follows w_c); ``calibration`` and ``learned``
for the others, which are fitted. Deviations: equal values go to the better place in any list, then to the more popular
item; a channel that did not answer (an empty list) is the same as one that knows nothing; the last of n listed items
keeps 1/n, for it was found; a turn that a channel spends on an item that is there already is not given back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates
from genrecall.recall.fusion.calibration import Calibration, Scale
from genrecall.recall.fusion.features import features
from genrecall.recall.fusion.learned import Scorer
from genrecall.recall.fusion.pool import Pool
from genrecall.recall.fusion.recency import recency
from genrecall.recall.fusion.weights import reciprocal_ranks
from genrecall.recall.selection import Popularity

Method = Literal["rrf", "scores", "quota", "weighted", "learned"]
METHODS: tuple[Method, ...] = ("rrf", "scores", "quota", "weighted", "learned")
FITTED: tuple[Method, ...] = ("weighted", "learned")
"""Those that know nothing before they are fitted."""
_REQUESTS_A_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """The part of a fusion that is not arrays; JSON brings it back unchanged.

    Attributes:
        channels: names, in the order of the weights.
        method: one of ``METHODS``.
        top: places of each list that count.
        constant: k of ``rrf``.
        scales: of the channels' calibrations; empty where the method is not fitted.
    """

    channels: Sequence[str]
    method: Method = "rrf"
    top: int = 100
    constant: float = 60.0
    scales: Sequence[Scale] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "scales", tuple(self.scales))
        distinct = len(set(self.channels)) == len(self.channels) > 0
        calibrated = self.method not in FITTED or len(self.scales) == len(self.channels)
        if not distinct or not calibrated or self.method not in METHODS or self.top < 1 or self.constant <= 0:
            raise ConfigError(
                "channels cannot be fused like this",
                seen=f"channels {', '.join(self.channels) or 'none'}, method={self.method!r}, top={self.top}, "
                f"constant={self.constant}, {len(self.scales)} scales",
                allowed=f"distinct channel names, a method of {', '.join(METHODS)}, top >= 1, constant > 0, and a "
                f"scale for each channel where the method is {' or '.join(FITTED)}",
                fix="correct FusionConfig, or fit the fusion again",
            )


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Why an item stands where it stands.

    Attributes:
        item: index.
        score: of the fusion.
        ranks: place by channel, of the channels that list it.
        scores: the same channels' own scores.
        parts: what they add to the fusion's; empty where it is no sum (or maximum).
    """

    item: int
    score: float
    ranks: dict[str, int]
    scores: dict[str, float]
    parts: dict[str, float] = field(default_factory=dict)


class Fusion:
    """One way of fusing named channels.

    Args:
        config: settings.
        counts: (I,) training events by item.
        weights: float64 (C,) of the channels; ones if None, not read by ``learned``.
        calibrations: of the channels, where the method is fitted.
        scorer: for ``learned``.
        mean_length: for ``learned``: mean ln(1 + n) of the histories that it was fitted on.
        facts: for ``learned``: float32 (I, 3) the items' ``recency``; None where it was fitted without.
        report: how it was chosen; empty where nothing was.
    """

    def __init__(
        self,
        config: FusionConfig,
        counts: np.ndarray,
        *,
        weights: np.ndarray | None = None,
        calibrations: Sequence[Calibration] = (),
        scorer: Scorer | None = None,
        mean_length: float = 0.0,
        facts: np.ndarray | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        assert config.method not in FITTED or len(calibrations) == len(config.channels)
        assert (config.method == "learned") == (scorer is not None)
        self.config, self.report = config, dict(report or {})
        self.weights = np.ones(len(config.channels)) if weights is None else weights
        self.calibrations, self.scorer, self.mean_length = list(calibrations), scorer, mean_length
        self.facts = facts
        self.popularity = Popularity(np.asarray(counts, dtype=np.float64))

    def pool(self, candidates: Mapping[str, Candidates], k: int = 0) -> Pool:
        """The union of the channels' lists, down to place ``k`` at least; channels of other names are not read.

        Raises:
            ConfigError: a channel is missing (one that did not answer has lists of −1).
        """
        missing = [name for name in self.config.channels if name not in candidates]
        if missing:
            raise ConfigError(
                "a channel of the fusion gave no candidates",
                seen=f"candidates of {', '.join(candidates) or 'no channel'}",
                allowed=f"those of {', '.join(self.config.channels)}; lists may be empty (−1)",
                fix=f"add {', '.join(missing)}, or fit the fusion without",
            )
        lists = [candidates[name] for name in self.config.channels]
        return Pool.of(lists, self.popularity, self.config.top, max(self.config.top, k))

    def values(self, pool: Pool, lengths: np.ndarray | None = None, columns: np.ndarray | None = None) -> np.ndarray:
        """float64 (P,) by which candidates are ordered; ``lengths`` int (R,) are events in the histories.

        ``columns`` are ``self.columns(pool)``, where they are there already.
        """
        columns = self.columns(pool) if columns is None else columns
        if columns is not None:
            return (columns * self.weights).max(axis=1) if self.config.method == "quota" else columns @ self.weights
        assert self.scorer is not None
        lengths = np.zeros(len(pool), np.int64) if lengths is None else lengths
        found = [np.empty(0)]
        for begin in range(0, len(pool), _REQUESTS_A_BLOCK):
            rows = np.arange(begin, min(begin + _REQUESTS_A_BLOCK, len(pool)))
            part = pool if len(rows) == len(pool) else pool.take(rows)
            known = features(part, self.calibrations, lengths[rows], self.mean_length, facts=self.facts)
            found.append(self.scorer.values(known))
        return np.concatenate(found)

    def columns(self, pool: Pool) -> np.ndarray | None:
        """float64 (P, C) what each channel says of a candidate, before weights; None where nothing is summed."""
        if self.config.method == "learned":
            return None
        if self.config.method in ("rrf", "quota"):
            return reciprocal_ranks(pool, self.config.constant if self.config.method == "rrf" else 0.0)
        return normalised(pool) if self.config.method == "scores" else lifts(pool, self.calibrations)

    def fuse(self, candidates: Mapping[str, Candidates], k: int, lengths: np.ndarray | None = None) -> Candidates:
        """The best ``k`` items of each request.

        Args:
            candidates: each channel's lists for the same R requests, by name.
            k: length of the fused lists.
            lengths: int (R,) events in each history; read by ``learned``.
        """
        pool = self.pool(candidates, k)
        return pool.best(self.values(pool, lengths), k)

    def explain(
        self, candidates: Mapping[str, Candidates], k: int, lengths: np.ndarray | None = None
    ) -> list[list[Explained]]:
        """``fuse``, with each channel's part: a list a request."""
        pool = self.pool(candidates, k)
        columns = self.columns(pool)
        answer = pool.best(self.values(pool, lengths, columns), k)
        return [
            self._explained(pool, columns, row, items[items >= 0], scores[items >= 0])
            for row, (items, scores) in enumerate(zip(answer.items, answer.scores, strict=True))
        ]

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that, with the configuration, make the fusion again."""
        state = {"counts": self.popularity.counts, "weights": self.weights}
        if self.calibrations:
            state["slopes"] = np.array([calibration.slope for calibration in self.calibrations])
            state["reaches"] = np.array([calibration.reach for calibration in self.calibrations])
        if self.scorer is not None:
            state |= {f"scorer.{name}": value for name, value in self.scorer.state().items()}
            state["mean_length"] = np.array([self.mean_length])
        if self.facts is not None:
            state["facts"] = self.facts
        return state

    def after(self, train: Histories, num_items: int) -> Self:
        """The same fusion with what it knows of items told by these training events; its report is not part of it."""
        state = self.state() | {"counts": train.item_counts(num_items).astype(np.float64)}
        if self.facts is not None:
            facts = recency(train, num_items)
            assert facts is not None, "events do not lose their times"
            state["facts"] = facts
        return self.from_state(state, self.config)

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: FusionConfig) -> Self:
        """The fusion whose ``state()`` this was; its report is not part of it."""
        learned = config.method == "learned"
        parts = {name.removeprefix("scorer."): value for name, value in state.items() if name.startswith("scorer.")}
        return cls(
            config,
            state["counts"],
            weights=np.asarray(state["weights"], dtype=np.float64),
            calibrations=[
                Calibration(scale=scale, slope=float(slope), reach=float(reach))
                for scale, slope, reach in zip(config.scales, state["slopes"], state["reaches"], strict=True)
            ]
            if config.scales
            else (),
            scorer=Scorer.from_state(parts) if learned else None,
            mean_length=float(state["mean_length"][0]) if learned else 0.0,
            facts=state.get("facts"),
        )

    def _explained(
        self, pool: Pool, columns: np.ndarray | None, row: int, items: np.ndarray, values: np.ndarray
    ) -> list[Explained]:
        """Request ``row``'s items (n,) with their values (n,) and each channel's part."""
        begin, end = pool.offsets[row : row + 2]
        where = begin + np.searchsorted(pool.items[begin:end], items)  # a request's candidates stand by index
        ranks, scores = pool.ranks[where].tolist(), pool.scores[where].tolist()
        parts = None if columns is None else (columns[where] * self.weights).tolist()
        found = []
        for place, (item, value) in enumerate(zip(items.tolist(), values.tolist(), strict=True)):
            listed = [(c, name) for c, name in enumerate(self.config.channels) if ranks[place][c] > 0]
            found.append(
                Explained(
                    item=item,
                    score=value,
                    ranks={name: ranks[place][c] for c, name in listed},
                    scores={name: scores[place][c] for c, name in listed},
                    parts={} if parts is None else {name: parts[place][c] for c, name in listed},
                )
            )
        return found


def normalised(pool: Pool) -> np.ndarray:
    """float64 (P, C) scores from 1/n to 1 within each list of n; 0 without evidence."""
    found = np.zeros(pool.ranks.shape)
    for channel in range(pool.ranks.shape[1]):
        where = np.flatnonzero(pool.ranks[:, channel] > 0)
        rows, scores = pool.rows[where], pool.scores[where, channel].astype(np.float64)
        count = np.bincount(rows, minlength=len(pool))
        low, high = np.full(len(pool), np.inf), np.full(len(pool), -np.inf)
        np.minimum.at(low, rows, scores)
        np.maximum.at(high, rows, scores)
        width = (high - low)[rows]
        share = np.divide(scores - low[rows], width, out=np.ones(len(rows)), where=width > 0)
        found[where, channel] = 1 / count[rows] + (1 - 1 / count[rows]) * share
    return found


def lifts(pool: Pool, calibrations: Sequence[Calibration]) -> np.ndarray:
    """float64 (P, C) lift of every channel."""
    columns = [calibration.lift(pool, channel) for channel, calibration in enumerate(calibrations)]
    return np.stack(columns, axis=1)
