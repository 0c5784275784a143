"""Whether a request gets the generative channel, and how wide: narrowed before it is shed.

    wait(W) = seconds(rows on their way + W) by the measured cost;  admit the widest W with wait(W) ≤ share · budget

Predictive admission against a deadline, after Vespa's degradation (coverage says what was left out) and Zhou et al.,
"Overload control for scaling WeChat microservices" (SoCC 2018). Deviation: what is rationed are beam rows, and the beam
is halved down to the list's length before the channel is skipped. Where others are on their way, half of the budget is
left for what the model of cost cannot see (a batch that runs already, the other processes of the machine).
"""

from __future__ import annotations

from dataclasses import dataclass

from genrecall.serve.worker.lane import WorkerLane

_SHARE, _SHARE_ALONE = 0.5, 0.9
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


def grant(worker: WorkerLane, *, beam: int, k: int, budget_s: float) -> Grant:
    """Decide for one request that asks for ``beam`` and has ``budget_s`` left."""
    assert worker.facts is not None, "only asked of a worker that is ready"
    passes = worker.facts.passes
    narrowest = min(beam, max(k, NARROWEST))
    width = beam
    share = _SHARE if worker.rows else _SHARE_ALONE
    while worker.cost.seconds(passes * (worker.rows + width), width) > share * budget_s:
        if width == narrowest:
            # With nothing on its way, one narrow search is tried all the same: else a bad estimate would stay for ever.
            if worker.rows == 0:
                break
            return Grant(beam=0, reason="shed")
        width = max(width // 2, narrowest)
    return Grant(beam=width, reason="narrowed" if width < beam else "")
