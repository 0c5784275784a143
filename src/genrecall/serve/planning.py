"""What one request asks of the channels: who and what for, which of them, how wide a beam, and by when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.recall.channel import Query
from genrecall.serve import ranking
from genrecall.serve.admission import grant
from genrecall.serve.arms import Draft
from genrecall.serve.config import ServeConfig
from genrecall.serve.limiter import Limiter
from genrecall.serve.release import Release
from genrecall.serve.scenario import Scenario
from genrecall.serve.schema import Rank, Recommend, Search
from genrecall.serve.state.state import State, StateUnavailableError
from genrecall.serve.state.store import Past, shown

_STATE_SHARE = 0.3  # of the deadline, for a store behind a network
_RESERVE = 0.15  # of the deadline, for everything after the channels
_NOTHING = np.empty(0, np.int32)
_AS_THE_BUNDLE_SAYS = Scenario()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Known:
    """What is stored of a user, or why that is not known."""

    pasts: Sequence[Past]
    profile: Mapping[str, str]
    reasons: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What one request asks of the channels."""

    query: Query
    channels: tuple[str, ...]
    rules: Scenario
    draft: Draft | None
    beam: int
    beam_asked: int
    reasons: list[str]
    budget_s: float


class Planner:
    """Plans requests.

    Args:
        config: settings.
        state: what is known of users.
        limiter: of the service.
    """

    def __init__(self, config: ServeConfig, state: State, limiter: Limiter) -> None:
        self._config, self._state, self._limiter = config, state, limiter

    def deadline_s(self, request: Recommend | Search | Rank) -> float:
        """The request's own, or the service's."""
        return self._config.deadline_s if request.deadline_ms is None else request.deadline_ms / 1e3

    def rules_of(self, request: Recommend | Search) -> Scenario:
        """Of its scenario."""
        return self._config.scenarios.get(request.scenario, _AS_THE_BUNDLE_SAYS)

    async def plan(self, request: Recommend | Search, release: Release, begun: float, draft: Draft | None) -> Plan:
        """What this request, which came at ``begun`` (perf_counter), asks; ``draft``: it is answered in two ways."""
        known = await self._known(request)
        history, times, profile = self._past(request, release, known)
        query = Query(
            history=history,
            times=times,
            exclude=self._exclude(request, release, history),
            barred=release.barred(request.filters),
            profile=profile,
            text=request.query if isinstance(request, Search) else None,
        )
        rules = self.rules_of(request)
        channels = release.chosen(
            request.channels or (draft.channels if draft else rules.channels), search=isinstance(request, Search)
        )
        reserve = _RESERVE + (ranking.SHARE if is_ranked(request, release) else 0.0)
        # The loop's lag was spent before the request was seen, and will be again before its answer leaves.
        spent_s = time.perf_counter() - begun + 2 * self._limiter.lag_s
        budget_s = max(self.deadline_s(request) * (1 - reserve) - spent_s, 0.0)
        beam_asked = max(request.beam or release.beam, min(request.k, len(release.contents.items)))
        beam, reasons = 0, []
        if "generative" in channels and release.worker is not None:
            beam = beam_asked
            if (worker := release.worker.of(request.user_id)) is not None:
                refusing = self._limiter.is_refusing
                granted = grant(worker, beam=beam_asked, k=request.k, budget_s=budget_s, refusing=refusing)
                beam = granted.beam
                if granted.reason:
                    reasons.append(f"{granted.reason}: generative")
        return Plan(
            query=query, channels=channels, rules=rules, draft=draft, beam=beam,
            beam_asked=beam_asked if beam or reasons else 0, reasons=[*known.reasons, *reasons], budget_s=budget_s,
        )  # fmt: skip

    async def query(self, request: Rank, release: Release) -> Query:
        """Whom items are to be ranked for."""
        history, times, profile = self._past(request, release, await self._known(request))
        return Query(history=history, times=times, profile=profile)

    async def _known(self, request: Recommend | Search | Rank) -> _Known:
        """What is stored of the request's user; a store that does not answer costs a part of the deadline at most."""
        user_id = request.user_id if request.history is None else None
        if user_id is None:
            return _Known(pasts=[], profile={})
        if not self._state.remote:
            pasts, profile = self._state.known(user_id)
            return _Known(pasts=pasts, profile=profile)
        try:
            async with asyncio.timeout(self.deadline_s(request) * _STATE_SHARE):
                pasts, profile = await asyncio.to_thread(self._state.known, user_id)
        except (StateUnavailableError, TimeoutError):
            return _Known(pasts=[], profile={}, reasons=["error: user state"])
        return _Known(pasts=pasts, profile=profile)

    def _past(
        self, request: Recommend | Search | Rank, release: Release, known: _Known
    ) -> tuple[np.ndarray, np.ndarray | None, Mapping[str, str]]:
        if request.history is not None:
            return release.indices(request.history)[0], None, request.profile
        if request.user_id is None:
            return _NOTHING, None, request.profile
        pasts = shown(known.pasts, release.contents.split)
        indices, places = release.indices([past.item_id for past in pasts])
        times = np.array([past.time for past in pasts], dtype=np.int64)[places] if len(places) else None
        return indices, times, {**known.profile, **request.profile}

    def _exclude(self, request: Recommend | Search, release: Release, history: np.ndarray) -> np.ndarray:
        parts = [release.delisted]
        if request.exclude:
            parts.append(release.indices(request.exclude)[0])
        if request.exclude_seen:
            parts.append(history)
        return np.concatenate([part for part in parts if len(part)] or [_NOTHING])


def is_ranked(request: Recommend | Search, release: Release) -> bool:
    """Rankers learn from histories, not from searches."""
    return release.ranks is not None and isinstance(request, Recommend)
