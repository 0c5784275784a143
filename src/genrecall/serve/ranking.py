"""The last stage of an answer, and the whole of /v1/rank: candidates in the order of the bundle's ranker.

What was fused stands as it is where no ranker answers in time: an answer that is less good is better than none, and
says so.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from genrecall.artifacts import open_artifact
from genrecall.bundle.contents import RankerFacts
from genrecall.errors import ArtifactError
from genrecall.rank.delta import KIND, read_delta
from genrecall.recall.channel import Query
from genrecall.recall.fusion.rule import Explained
from genrecall.serve import answering
from genrecall.serve.lanes import LaneFailedError, LaneShedError, RankAsked, RankListed
from genrecall.serve.problems import Problem
from genrecall.serve.schema import RankedItem

DEPTH = 200
"""So many fused candidates are ranked, at least."""
SHARE = 0.2
"""Of the deadline that is kept for ranking."""
_AFTER = 0.05


class RankLane(Protocol):
    """Who scores candidates."""

    async def rank(self, asked: RankAsked) -> RankListed:
        """Raises TimeoutError, LaneShedError or LaneFailedError."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """What ranking made of fused candidates.

    Attributes:
        found: best first.
        version: of the tables; None where nothing was ranked.
        reason: why nothing was, in short words; empty where it was, or where no ranker is there.
    """

    found: list[Explained]
    version: int | None = None
    reason: str = ""


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


class DeltaStore:
    """Deltas of the tables, kept in the service's state so that a service which starts again has them.

    Args:
        directory: of the state; deltas of one ranker lie in a folder of its own, numbered.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "ranker-deltas"

    def of(self, ranker: RankerFacts) -> list[str]:
        """Paths of a ranker's deltas, oldest first."""
        folder, found = self._folder(ranker), []
        while (path := folder / f"{len(found) + 1:06d}").is_dir():
            found.append(str(path))
        return found

    def add(self, ranker: RankerFacts, path: Path) -> list[str]:
        """Check the next delta, keep a copy, and return all; what does not fit is refused and changes nothing.

        Raises:
            ArtifactError: it is damaged, or not the next one.
        """
        known = self.of(ranker)
        read_delta(path, ranker=ranker.digest, version=len(known), shapes=ranker.tables)
        target = self._folder(ranker) / f"{len(known) + 1:06d}"
        writing = target.with_name(f".writing-{target.name}")
        shutil.rmtree(writing, ignore_errors=True)
        shutil.copytree(path, writing)
        open_artifact(writing, kind=KIND)  # the copy, too
        writing.rename(target)
        return [*known, str(target)]

    def _folder(self, ranker: RankerFacts) -> Path:
        return self._directory / ranker.digest.removeprefix("sha256:")[:32]


def added(store: DeltaStore, ranker: RankerFacts | None, path: Path) -> list[str]:
    """``DeltaStore.add`` with refusals as problems."""
    if ranker is None:
        raise Problem("conflict", "the active bundle has no ranker")
    try:
        return store.add(ranker, path)
    except ArtifactError as error:
        raise Problem("conflict", f"the delta cannot be applied: {error.what}") from error
