"""Whether a request gets the generative channel, and how wide: narrowed before it is shed.

    wait(W) = excess + rest of what runs + seconds(rows that wait + W)
    admit the widest W with wait(W) ≤ share · budget

Predictive admission against a deadline, after Vespa's degradation (coverage says what was left out) and Zhou et al.,
"Overload control for scaling WeChat microservices" (SoCC 2018). Deviation: what is rationed are beam rows, and the beam
is halved down to the list's length before the channel is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

from genrecall.serve.worker.lane import WorkerLane

_SHARE = 0.8
NARROWEST = 8


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a request may have.

    Attributes:
        beam: W; 0 where the generative channel is skipped.
        reason: empty, ``narrowed`` or ``shed``.
    """

    beam: int
    reason: str = ""


def grant(worker: WorkerLane, *, beam: int, k: int, budget_s: float, refusing: bool = False) -> Grant:
    """Decide for one request that asks for ``beam`` and has ``budget_s`` left.

    While the gateway is ``refusing`` requests, an engine on its own cores gets none: that leaves out less.
    """
    if refusing and worker.facts is not None and worker.facts.device == "cpu":
        return Grant(beam=0, reason="shed")
    narrowest = min(beam, max(k, NARROWEST))
    width = beam
    while worker.cost.excess_s + worker.expected_s(width) > _SHARE * budget_s:
        if width == narrowest:
            # With nothing on its way, one narrow search is tried all the same: else a bad estimate would stay for ever.
            if worker.rows == 0:
                break
            return Grant(beam=0, reason="shed")
        width = max(width // 2, narrowest)
    return Grant(beam=width, reason="narrowed" if width < beam else "")
