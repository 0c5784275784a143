"""A bundle into a running service, and out again if it does worse: stage, canary, watch, activate, watch, keep.

    staged ──▶ canary p₁% ──watch──▶ canary p₂% ──watch──▶ … ──▶ active ──watch──▶ kept
                        └───────────────┴──────── worse ────────────┴──▶ rolled back

While a canary runs, candidate and active are compared over the same seconds; after the activation, the bundle with what
the one before it did in its last seconds. A worker that is lost, or an operator who interferes, ends the rollout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrecall.errors import ConfigError
from genrecall.telemetry import log

Ask = Callable[[str, str, dict[str, Any] | None], dict[str, Any]]
_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How careful a rollout is.

    Attributes:
        steps: percent of the users at each canary, ascending.
        watch_s: seconds of each watch; the service's own figures cover its last minute.
        least_answers: fewer answers of the candidate in a watch are too few to judge by.
        degraded_rise: its share of degraded answers may be so much higher.
        fill_drop: its fill ratio may be so much lower.
        slower: its p99 may be so many times the other's.
        slower_ms: and so many milliseconds more: what is fast anyway is not judged by ratios.
    """

    steps: Sequence[float] = (5.0, 25.0)
    watch_s: float = 60.0
    least_answers: int = 100
    degraded_rise: float = 0.02
    fill_drop: float = 0.02
    slower: float = 1.5
    slower_ms: float = 20.0

    def __post_init__(self) -> None:
        steps = list(self.steps)
        if not steps or steps != sorted(set(steps)) or not all(0 < step <= 100 for step in steps):
            raise ConfigError(
                "these canaries cannot be run", seen=", ".join(map(str, steps)) or "none",
                allowed="ascending percentages above 0, up to 100", fix="for example --canary 5 --canary 25",
            )  # fmt: skip
        if not 0 <= self.watch_s < math.inf or self.least_answers < 0:
            raise ConfigError(
                "this cannot be watched", seen=f"watch_s={self.watch_s}, least_answers={self.least_answers}",
                allowed="0 or more", fix="correct --watch-s or --least-answers",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What was seen in one watch.

    Attributes:
        phase: ``canary 5%`` or ``active``.
        before, after: figures of the bundle in use (or before) and of the new one; empty where it answered nobody.
        worse: why it was rolled back; empty where it was not.
    """

    phase: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    worse: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """How a rollout ended: ``kept``, ``rolled back`` or ``was active``; and what was seen on the way."""

    outcome: str
    watches: Sequence[Watch] = field(default_factory=tuple)

    @property
    def kept(self) -> bool:
        """Whether the new bundle answers everybody."""
        return self.outcome != "rolled back"


def roll_out(
    ask: Ask,
    bundle: Path,
    digest: str,
    active: str,
    config: RolloutConfig,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Rolled:
    """Bring a bundle into service by its steps; whatever goes wrong on the way, the one before answers again.

    Args:
        ask: sends a method, a path and a body to the admin listener.
        bundle: directory, as the service sees it.
        digest: of it.
        active: digest of the bundle that it was compared with.
        config: settings.
        sleep: waits.

    Raises:
        ConfigError: the service answers from another bundle than ``active``, or refuses the new one.
    """
    status = ask("GET", "/admin/releases", None)
    if _digest(status, "active") == digest:
        return Rolled(outcome="was active")
    if _digest(status, "active") != active:
        raise ConfigError(
            "the service answers from another bundle than the new one was compared with",
            seen=str(_digest(status, "active")), allowed=active,
            fix="refresh from the run that is in service, or activate the bundle by hand",
        )  # fmt: skip
    if _digest(status, "candidate") != digest:
        log("rollout: staging")
        ask("POST", "/admin/releases/stage", {"bundle": str(bundle.resolve())})
    watches: list[Watch] = []
    kept = False
    try:
        for percent in config.steps:
            ask("POST", "/admin/releases/canary", {"percent": percent})
            watches.append(_watch(ask, f"canary {percent:g}%", "candidate", digest, active, None, config, sleep))
            if watches[-1].worse:
                break
        else:
            last = watches[-1].before
            ask("POST", "/admin/releases/activate", {})
            watches.append(_watch(ask, "active", "active", digest, active, last, config, sleep))
            kept = not watches[-1].worse
    finally:
        # Ctrl-C and a lost connection, too, must not leave a canary behind that nobody watches.
        if not kept:
            why = "; ".join(watches[-1].worse) if watches else ""
            log(f"rollout: rolling back: {why or 'interrupted'}")
            _undo(ask, digest)
    return Rolled(outcome="kept" if kept else "rolled back", watches=watches)


def require_in_service(ask: Ask, digests: Collection[str]) -> None:
    """Before anything is trained: refuse what :func:`roll_out` would refuse after it.

    Raises:
        ConfigError: no service answers, or it answers from none of these bundles.
    """
    active = _digest(ask("GET", "/admin/releases", None), "active")
    if active not in digests:
        raise ConfigError(
            "the service answers from another bundle than the run's",
            seen=str(active), allowed=" or ".join(digests),
            fix="refresh from the run that is in service, or give --no-release and activate by hand",
        )  # fmt: skip


def _undo(ask: Ask, digest: str) -> None:
    """Take the bundle out of whichever role it has; where an operator did already, nothing is left to do."""
    for role in ("candidate", "active"):
        if _digest(ask("GET", "/admin/releases", None), role) == digest:
            ask("POST", "/admin/releases/rollback", {})


def _watch(
    ask: Ask,
    phase: str,
    role: str,
    digest: str,
    active: str,
    last: Mapping[str, float] | None,
    config: RolloutConfig,
    sleep: Callable[[float], None],
) -> Watch:
    log(f"rollout: watching {phase} for {config.watch_s:g} s")
    until = time.monotonic() + config.watch_s
    while True:
        status = ask("GET", "/admin/releases", None)
        traffic = status["traffic"]
        before = last if last is not None else traffic.get(active, {})
        after, release = traffic.get(digest, {}), status[role]
        worse = []
        if release is None or release["digest"] != digest:
            worse.append(f"it is not {role} any more")
        elif release["restarts"]:
            worse.append(f"its worker was lost {release['restarts']} times")
        enough = after.get("answers", 0) >= config.least_answers
        if enough and after:
            worse += compared(before, after, config)
        left = until - time.monotonic()
        if worse or left <= 0:
            if not worse and not enough:
                seen = after.get("answers", 0)
                worse.append(f"{seen:g} answers are too few to judge by ({config.least_answers} are wanted)")
            return Watch(phase=phase, before=before, after=after, worse=worse)
        sleep(min(_EVERY_S, max(left, 0.0)))


def compared(before: Mapping[str, float], after: Mapping[str, float], config: RolloutConfig) -> list[str]:
    """Why the second is worse than the first; empty if it is not, or the first answered nobody."""
    if not before:
        return []
    worse = []
    if after["degraded_share"] > before["degraded_share"] + config.degraded_rise:
        worse.append(f"degraded {after['degraded_share']:.1%} against {before['degraded_share']:.1%}")
    if after["fill"] < before["fill"] - config.fill_drop:
        worse.append(f"fill {after['fill']:.1%} against {before['fill']:.1%}")
    if after["p99"] > max(before["p99"] * config.slower, before["p99"] + config.slower_ms):
        worse.append(f"p99 {after['p99']:.0f} ms against {before['p99']:.0f} ms")
    return worse


def _digest(status: Mapping[str, Any], role: str) -> str | None:
    release = status[role]
    return None if release is None else release["digest"]
