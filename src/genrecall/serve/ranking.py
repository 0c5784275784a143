"""The last stage of an answer, and the whole of /v1/rank: candidates in the order of the bundle's ranker.

What was fused stands as it is where no ranker answers in time: an answer that is less good is better than none, and
says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.recall.channel import Query
from genrecall.recall.fusion.rule import Explained
from genrecall.serve import answering
from genrecall.serve.lanes import LaneFailedError, LaneShedError, RankAsked, RankLane
from genrecall.serve.problems import Problem
from genrecall.serve.schema import RankedItem

DEPTH = 100
"""So many fused candidates are ranked, at least: as many as rankers learn from."""
SHARE = 0.2
"""Of the deadline that is kept for ranking."""
_AFTER = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """What ranking made of fused candidates.

    Attributes:
        found: best first.
        version: of the tables; None where nothing was ranked.
        reason: why nothing was, in short words; empty where it was, or where no ranker is there.
        took_s: until the ranker had answered, or was given up.
    """

    found: list[Explained]
    version: int | None = None
    reason: str = ""
    took_s: float = 0.0


async def ordered(
    lane: RankLane, deltas: Sequence[str], found: list[Explained], query: Query, user_id: str | None, left_s: float
) -> Order:
    """Fused candidates in the ranker's order, if it answers within ``left_s``."""
    if not found:
        return Order(found=found)
    asked = answering.rank_asked(found, query, user_id, deltas, max(left_s, 0.0))
    try:
        async with asyncio.timeout(left_s):
            listed = await lane.rank(asked)
    except TimeoutError:
        return Order(found=found, reason="timeout: rank")
    except LaneShedError:
        return Order(found=found, reason="shed: rank")
    except LaneFailedError:
        return Order(found=found, reason="error: rank")
    return Order(found=answering.reordered(found, listed.logits), version=listed.version)


def left_of(deadline_s: float, begun: float) -> float:
    """Seconds that ranking may take of a request that began then (perf_counter)."""
    return deadline_s * (1 - _AFTER) - (time.perf_counter() - begun)


async def scored(
    lane: RankLane, deltas: Sequence[str], query: Query, user_id: str | None, items: np.ndarray, ids: list[str],
    left_s: float,
) -> tuple[list[RankedItem], int]:  # fmt: skip
    """Given items int32 (n,) in the ranker's order, and the version of the tables.

    Raises:
        Problem: no answer in time.
    """
    asked = RankAsked(query=query, user_id=user_id, items=items, deltas=deltas, budget_s=max(left_s, 0.0))
    try:
        async with asyncio.timeout(left_s):
            listed = await lane.rank(asked)
    except (TimeoutError, LaneShedError):
        raise Problem("overloaded", "the ranker did not answer in time", retry_after_s=1) from None
    except LaneFailedError:
        raise Problem("not_ready", "the ranker cannot answer now", retry_after_s=2) from None
    order = np.argsort(-listed.logits, kind="stable").tolist()
    found = [
        RankedItem(ids[items[at]], rank, round(float(listed.logits[at]), 6), round(float(listed.probabilities[at]), 6))
        for rank, at in enumerate(order, 1)
    ]
    return found, listed.version
