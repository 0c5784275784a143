"""Teachers of searches: which items channels find for queries that were made up.

    teacher(i | q) ∝ ( Σ_c w_c · score_c(i | q) / max_j score_c(j | q) )^γ,    weight of i in the loss: τ · teacher

A combination of normalised scores (Lee, "Analyses of multiple evidence combination", SIGIR 1997), distilled as in
``teacher``. We deviate: no folds are needed: channels that read texts have not seen who answers a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.teacher import TeacherConfig, best_of, softened
from genrecall.telemetry import progress
from genrecall.train.sequence.soft import SoftTargets

_BATCH = 2048


@dataclass(frozen=True, kw_only=True)
class SearchTeacherConfig:
    """How the channels' answers become soft targets.

    Attributes:
        trust: τ, share of the loss that the teachers decide; the rest is the item that the query was made from.
        sharpness: γ.
        items: K, the most items that are kept.
        weights: w, one a channel; None: all alike.
    """

    trust: float = 0.8
    sharpness: float = 2.5
    items: int = 48
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        TeacherConfig(trust=self.trust, sharpness=self.sharpness, items=self.items)  # the same limits
        if self.weights is not None and (min(self.weights, default=0) < 0 or not any(self.weights)):
            raise ConfigError(
                "the teachers of searches have no say",
                seen=f"weights={self.weights}",
                allowed="weights of 0 or more, not all 0",
                fix="correct SearchTeacherConfig",
            )


def search_targets(
    channels: Sequence[Channel], texts: Sequence[str], config: SearchTeacherConfig, *, digest: str = ""
) -> SoftTargets:
    """Ask every channel of every text.

    Args:
        channels: that read ``Query.text``; scores of 0 and below say nothing.
        texts: Q queries.
        config: settings.
        digest: of channels and texts, for manifests.
    """
    weights = config.weights or (1.0,) * len(channels)
    assert len(weights) == len(channels), "one weight a channel"
    distinct = sorted(set(texts))
    place = {text: number for number, text in enumerate(distinct)}
    k = 2 * config.items
    parts = []
    with progress("teachers of searches", len(distinct)) as bar:
        for begin in range(0, len(distinct), _BATCH):
            queries = [Query(text=text) for text in distinct[begin : begin + _BATCH]]
            found = [channel.recall(queries, k) for channel in channels]
            shares = [weight * _levelled(answer) for weight, answer in zip(weights, found, strict=True)]
            items = np.concatenate([answer.items for answer in found], axis=1)
            parts.append(best_of(items, np.concatenate(shares, axis=1), config.items))
            bar.advance(len(queries))
    if not parts:
        return SoftTargets(items=np.zeros((0, 0), np.int32), weights=np.zeros((0, 0), np.float16), digest=digest)
    rows = np.array([place[text] for text in texts], dtype=np.int64)
    best = Candidates(
        items=np.concatenate([part.items for part in parts]), scores=np.concatenate([part.scores for part in parts])
    )
    blending = TeacherConfig(trust=config.trust, sharpness=config.sharpness, items=config.items)
    told = softened(best, blending)
    return SoftTargets(items=told.items[rows], weights=told.weights[rows], digest=digest)


def _levelled(found: Candidates) -> np.ndarray:
    """float32 (R, k) scores as shares of each row's best."""
    scores = np.where(found.items >= 0, found.scores, 0.0).clip(min=0)
    return (scores / np.maximum(scores.max(axis=1, keepdims=True), 1e-9)).astype(np.float32)
