"""The report of an experiment: is it sound, did it help, did it hurt.

A user's outcome is the number of events on items of an answer, within ``window_s`` after it; the same user's events of
``before_s`` before the first answer are what CUPED adjusts by.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrecall.experiment.assignment import Layer
from genrecall.experiment.exposure import Exposure
from genrecall.experiment.inference import SRM_ALARM, Difference, compare, srm

Happened = tuple[str, str, float]
"""An event: user, item, UTC seconds."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """How outcomes are counted.

    Attributes:
        window_s: an event this long after an answer is attributed to it.
        before_s: length of the time before the first exposure that CUPED looks at.
        alpha: error of the intervals.
        planned: users at which the sequence is tightest.
    """

    window_s: float = 86_400.0
    before_s: float = 14 * 86_400.0
    alpha: float = 0.05
    planned: int = 10_000


@dataclass(kw_only=True, eq=False)
class _User:
    arm: str
    first: float
    answers: list[Exposure] = field(default_factory=list)


def report(
    layer: Layer, exposures: Iterable[Exposure], events: Iterable[Happened], config: ReportConfig | None = None
) -> dict[str, Any]:
    """Everything that the page and the console show.

    ``sound`` is False where the arms' sizes do not fit their shares, or users were seen in two arms: then the
    differences are not to be read.
    """
    config = config or ReportConfig()
    users, mixed = _users(layer, exposures)
    outcome, before = _outcomes(users, events, config)
    arms = {name: [user for user, seen in users.items() if seen.arm == name] for name in layer.arms}
    counts = {name: len(members) for name, members in arms.items()}
    p = srm(counts, {name: arm.share for name, arm in layer.arms.items()})
    control, *others = layer.arms
    differences = {}
    for name in others:
        if min(counts[control], counts[name]) >= 2:
            values = [np.array([outcome[user] for user in arms[arm]], dtype=np.float64) for arm in (control, name)]
            known = [np.array([before[user] for user in arms[arm]], dtype=np.float64) for arm in (control, name)]
            differences[name] = compare(
                *values, before=(known[0], known[1]), alpha=config.alpha, planned=config.planned
            )
    return {
        "layer": layer.name,
        "control": control,
        "users": counts,
        "srm_p": p,
        "mixed_users": mixed,
        "sound": p >= SRM_ALARM and mixed == 0,
        "differences": {name: vars(found) for name, found in differences.items()},
        "guardrails": {name: _guardrails([users[user] for user in members]) for name, members in arms.items()},
    }


def to_markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [f"# {found['layer']}", ""]
    if not found["sound"]:
        lines += [f"**Not sound** (sample ratio p = {found['srm_p']:.2g}, {found['mixed_users']} users in two arms): "
                  "do not read the differences.", ""]  # fmt: skip
    lines += ["| arm | users | answers | p99 ms | degraded | filled without fallback |", "|---|---|---|---|---|---|"]
    for name, count in found["users"].items():
        guard = found["guardrails"][name]
        lines.append(f"| {name} | {count:,} | {guard['answers']:,} | {guard['p99_ms']:.1f} "
                     f"| {guard['degraded']:.2%} | {guard['fill']:.2%} |")  # fmt: skip
    lines += ["", "| against " + found["control"] + " | events a user | difference | one look | any number of looks "
              "| variance less |", "|---|---|---|---|---|---|"]  # fmt: skip
    for name, told in found["differences"].items():
        d = Difference(**told)
        lines.append(f"| {name} | {d.control:.4f} → {d.treatment:.4f} | {d.value:+.4f} | {d.low:+.4f} … {d.high:+.4f} "
                     f"| {d.always_low:+.4f} … {d.always_high:+.4f} | {d.reduction:.0%} |")  # fmt: skip
    lines += ["", f"Sample ratio: p = {found['srm_p']:.3g} (alarm below {SRM_ALARM})."]
    return "\n".join(lines) + "\n"


def _users(layer: Layer, exposures: Iterable[Exposure]) -> tuple[dict[str, _User], int]:
    users: dict[str, _User] = {}
    mixed = set()
    for exposure in exposures:
        arm = exposure.arms.get(layer.name)
        if arm is None:
            continue
        # Events are stored in whole seconds, so that an event may seem to come before its answer.
        begun = float(math.floor(exposure.time))
        user = users.setdefault(exposure.user_id, _User(arm=arm, first=begun))
        if user.arm != arm:
            mixed.add(exposure.user_id)
            continue
        user.first = min(user.first, begun)
        user.answers.append(exposure)
    return users, len(mixed)


def _outcomes(
    users: Mapping[str, _User], events: Iterable[Happened], config: ReportConfig
) -> tuple[dict[str, int], dict[str, int]]:
    after: dict[str, int] = defaultdict(int)
    before: dict[str, int] = defaultdict(int)
    for user_id, item, when in events:
        user = users.get(user_id)
        if user is None:
            continue
        if user.first - config.before_s <= when < user.first:
            before[user_id] += 1
        elif any(item in a.items and math.floor(a.time) <= when <= a.time + config.window_s for a in user.answers):
            after[user_id] += 1
    return after, before


def _guardrails(members: list[_User]) -> dict[str, float]:
    answers = [answer for user in members for answer in user.answers]
    asked = sum(answer.k for answer in answers)
    return {
        "answers": len(answers),
        "p99_ms": float(np.percentile([answer.total_ms for answer in answers], 99)) if answers else 0.0,
        "degraded": sum(answer.degraded for answer in answers) / max(len(answers), 1),
        "fill": 1 - sum(answer.filled for answer in answers) / max(asked, 1),
    }
