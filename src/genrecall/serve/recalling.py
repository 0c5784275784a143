"""All channels of a request at once, each within its budget; what became of each of them, whatever that is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from genrecall.serve.answering import Outcome
from genrecall.serve.lanes import Asked, Lane, LaneFailedError, LaneShedError, Listed
from genrecall.serve.limiter import Limiter
from genrecall.serve.schema import ChannelCoverage
from genrecall.serve.worker.remote import RemoteLane

_ENGINE = "generative"


async def recalled(lanes: Mapping[str, Lane], asked: Mapping[str, Asked], limiter: Limiter) -> dict[str, Outcome]:
    """Ask; nobody is waited for beyond the budget. Cancelling this takes the request out of all lanes.

    Args:
        lanes: by channel.
        asked: of the channels that are wanted, in the order of the answer.
        limiter: is told for how long the request only waits for the engine.
    """
    remote = {name: one for name, one in asked.items() if isinstance(lanes[name], RemoteLane)}
    rest = [name for name in asked if name not in remote]
    if not rest:  # as while there is too much to do for the engine: no task but the request's own
        return await _together(lanes, remote)
    asking = [_parked(lanes[n], asked[n], limiter) if n == _ENGINE else _alone(lanes[n], asked[n]) for n in rest]
    # What one process is asked travels together, and costs the loop one task.
    together, alone = await asyncio.gather(_together(lanes, remote), asyncio.gather(*asking))
    found = together | dict(zip(rest, alone, strict=True))
    return {name: found[name] for name in asked}


def classic_s(outcomes: Mapping[str, Outcome]) -> float:
    """How long the slowest of the channels took that are not the engine's."""
    return max((o.coverage.ms for name, o in outcomes.items() if name != _ENGINE), default=0.0) / 1e3


async def _parked(lane: Lane, asked: Asked, limiter: Limiter) -> Outcome:
    limiter.parked += 1
    try:
        return await _alone(lane, asked)
    finally:
        limiter.parked -= 1


async def _alone(lane: Lane, asked: Asked) -> Outcome:
    """One channel's outcome; it never raises but for cancellation."""
    begun = time.perf_counter()
    listed: Listed | Exception
    try:
        async with asyncio.timeout(asked.budget_s):
            listed = await lane.ask(asked)
    except (TimeoutError, LaneShedError, LaneFailedError) as error:
        listed = error
    return _outcome(listed, time.perf_counter() - begun)


async def _together(lanes: Mapping[str, Lane], asked: Mapping[str, Asked]) -> dict[str, Outcome]:
    """Outcomes of channels of one process. The way there and back counts as part of each one's time."""
    if not asked:
        return {}
    begun, lane = time.perf_counter(), lanes[next(iter(asked))]
    assert isinstance(lane, RemoteLane)
    try:
        async with asyncio.timeout(max(one.budget_s for one in asked.values())):
            told = await lane.process.recall(asked)
    except (TimeoutError, LaneFailedError) as error:
        seconds = time.perf_counter() - begun
        return {name: _outcome(error, seconds) for name in asked}
    way_s = time.perf_counter() - begun - max(one.seconds for one in told.values())
    return {name: _outcome(one.listed, one.seconds + way_s) for name, one in told.items()}


def _outcome(listed: Listed | Exception, seconds: float) -> Outcome:
    ms = round(seconds * 1e3, 3)
    if isinstance(listed, TimeoutError):
        return Outcome(coverage=ChannelCoverage("timeout", 0, ms, "not waited for"))
    if isinstance(listed, LaneShedError):
        return Outcome(coverage=ChannelCoverage("shed", 0, ms, "too many requests wait for it"))
    if isinstance(listed, Exception):
        return Outcome(coverage=ChannelCoverage("error", 0, ms, "it failed"))
    if len(listed.items) == 0:
        why = "nothing is known of this user" if listed.cold else ""
        return Outcome(coverage=ChannelCoverage("empty", 0, ms, why), listed=listed)
    return Outcome(coverage=ChannelCoverage("ok", len(listed.items), ms), listed=listed)
