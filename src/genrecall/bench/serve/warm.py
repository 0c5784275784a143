"""Until a service answers what is asked of it as it always will.

A width that an engine never ran is compiled and captured when it is first asked for, which takes seconds on a GPU.
Asked with a short deadline, those requests fail; the service takes its engine for overloaded, leaves it out, and never
learns better. So it is first asked with a deadline that compiling keeps, in bursts of every power of two, for batches
of that size; then with the deadline that is measured. After an overload the same brings its estimates back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from genrecall.bench.serve.asking import Asking
from genrecall.bench.serve.figures import lacking
from genrecall.errors import ConfigError

_BURSTS = (1, 2, 4, 8, 16, 32)
_TIMES, _COMPILING = 3, 0.5  # a burst that takes less than this share of the one before: that one compiled
_ASKERS, _LOOK_S = 2, 0.5
_ENOUGH, _ENOUGH_S = 100, 1.5  # answers and time in which every gateway forgets most of what it made of an overload
_FEW = 0.05  # of the requests of one asker: a stall of a shared machine


@dataclass(frozen=True, kw_only=True)
class Warmth:
    """What it took.

    Attributes:
        seconds: until now.
        alone_ms: of one request, with nothing else on its way, after all is compiled.
        whole: one asker's requests come whole by the deadline that is measured.
    """

    seconds: float
    alone_ms: float
    whole: bool


async def warmed(asking: Asking, deadline_s: float, limit_s: float) -> Warmth:
    """Have compiled what the requests need, for ``limit_s`` at most."""
    begun = time.perf_counter()
    fastest_s: dict[int, float] = {}
    for size in _BURSTS:
        took_s: list[float] = []
        while len(took_s) < _TIMES or took_s[-1] < _COMPILING * took_s[-2]:
            took_s.append(await _burst(asking, size))
            if time.perf_counter() - begun > limit_s:
                break
        fastest_s[size] = min(took_s)
        if fastest_s[size] > deadline_s or time.perf_counter() - begun > limit_s:  # larger ones would be late anyhow
            break
    alone_s = fastest_s[1]
    whole = alone_s <= deadline_s and await calmed(asking, limit_s - (time.perf_counter() - begun))
    return Warmth(seconds=time.perf_counter() - begun, alone_ms=1e3 * alone_s, whole=whole)


async def calmed(asking: Asking, limit_s: float) -> bool:
    """Ask with time to spare, until one asker's requests come whole by the deadline; whether they do in ``limit_s``."""
    begun, asked = time.perf_counter(), 0
    end = begun + limit_s
    while asked < _ENOUGH or time.perf_counter() < min(begun + _ENOUGH_S, end):
        asked += len((await asking.patient.closed(_ASKERS, _LOOK_S)).status)
        if time.perf_counter() > end:
            break
    while lacking(await asking.timely.closed(1, _LOOK_S)) > _FEW:
        if time.perf_counter() > end:
            return False
        await asking.patient.closed(_ASKERS, _LOOK_S)
    return True


async def _burst(asking: Asking, size: int) -> float:
    """Seconds until all of so many at once were answered.

    Raises:
        ConfigError: the service refuses such requests whatever it has to do.
    """
    outcomes = await asking.patient.at([0.0] * size)
    if size == 1 and 400 <= outcomes.status[0] < 500 and outcomes.status[0] not in (408, 429):
        raise ConfigError(
            "the service does not accept these requests", seen=f"HTTP {outcomes.status[0]}",
            allowed="what POST /v1/recommend takes", fix="correct -k, --beam, --deadline-ms or --key",
        )  # fmt: skip
    return max(outcomes.latency_s)
