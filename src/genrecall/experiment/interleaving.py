"""Two ways of answering in one list: who preferred which, from far fewer users than two arms need.

    team draft   in each round a coin says who picks first; each adds its best item that is not there yet, and owns it
    p_u          = (c_B − c_A) / (c_A + c_B)     of user u's events on items that A and B own, where there are any
    preference   = mean_u p_u ± z · s / √n,      and the same at any number of looks by ``inference.sequence_factor``

Radlinski, Kurup & Joachims, "How does clickthrough data reflect retrieval quality?" (CIKM 2008). Deviations: the user,
not the answer, is the unit, because one user's answers depend on each other; an event on an item that was answered
several times counts for the latest answer before it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np

from genrecall.experiment.exposure import Exposure
from genrecall.experiment.inference import SRM_ALARM, sequence_factor, srm

T = TypeVar("T")
A, B = 0, 1


def team_draft(first: Sequence[T], second: Sequence[T], k: int, seed: str) -> list[tuple[T, int]]:
    """At most ``k`` distinct items and who owns each: 0 for ``first``'s, 1 for ``second``'s.

    Args:
        first, second: ranked lists of hashable items.
        k: length.
        seed: the same one makes the same draft.
    """
    coins = np.random.default_rng(int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "big"))
    lists, taken, drafted = (iter(first), iter(second)), set[T](), list[tuple[T, int]]()
    while len(drafted) < k:
        before, begins = len(drafted), int(coins.integers(2))
        for team in (begins, 1 - begins):
            pick = next((item for item in lists[team] if item not in taken), None)
            if pick is not None and len(drafted) < k:
                taken.add(pick)
                drafted.append((pick, team))
        if len(drafted) == before:
            break
    return drafted


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What users' events say of two interleaved ways.

    Attributes:
        users: with events on items of either.
        wins: of each way: users with more events on its items.
        value: mean preference for the second, from −1 to 1.
        low, high: interval of one look.
        always_low, always_high: interval of any number of looks.
    """

    users: int
    wins: tuple[int, int]
    value: float
    low: float
    high: float
    always_low: float
    always_high: float


def preference(credits: np.ndarray, *, alpha: float = 0.05, planned: int = 10_000) -> Preference:
    """Infer from events int (U, 2) of users on items of the first and of the second way."""
    seen = credits[credits.sum(axis=1) > 0].astype(np.float64)
    value, error, always = 0.0, 1.0, 1.0  # nothing is known: the whole range
    if len(seen) > 1:
        each = (seen[:, B] - seen[:, A]) / seen.sum(axis=1)
        value, spread = float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))
        error = NormalDist().inv_cdf(1 - alpha / 2) * spread
        always = sequence_factor(len(each), alpha, planned) * spread
    return Preference(
        users=len(seen),
        wins=(int((seen[:, A] > seen[:, B]).sum()), int((seen[:, B] > seen[:, A]).sum())),
        value=value,
        low=value - error,
        high=value + error,
        always_low=value - always,
        always_high=value + always,
    )


def interleaved_report(
    layer: str,
    arms: Sequence[str],
    exposures: Iterable[Exposure],
    events: Iterable[tuple[str, str, float]],
    *,
    window_s: float,
    alpha: float = 0.05,
    planned: int = 10_000,
) -> dict[str, Any]:
    """What the page and the console show of an interleaved layer.

    Args:
        layer: its name.
        arms: of the first and of the second way.
        exposures: of the service.
        events: user, item, UTC seconds.
        window_s: an event this long after an answer is attributed to it.
        alpha, planned: as for :func:`preference`.

    Returns:
        ``sound`` is False where the two ways did not get the first place equally often: then something is wrong with
        the draft or the log, and nothing else may be read.
    """
    shown: dict[str, dict[str, list[tuple[float, str]]]] = defaultdict(lambda: defaultdict(list))
    answers, owned, first = 0, Counter[str](), Counter[str]()
    for exposure in exposures:
        if exposure.layer != layer:
            continue
        answers += 1
        if exposure.teams:
            first[exposure.teams[0]] += 1
        for item, team in zip(exposure.items, exposure.teams, strict=False):
            owned[team] += 1
            shown[exposure.user_id][item].append((exposure.time, team))
    credits = {user: Counter[str]() for user in shown}
    for user, item, when in events:
        # Events are stored in whole seconds, so that an event may seem to come before its answer.
        own = shown.get(user, {}).get(item, ())
        latest = max((at for at in own if math.floor(at[0]) <= when <= at[0] + window_s), default=None)
        if latest is not None:
            credits[user][latest[1]] += 1
    table = np.array([[counted[arm] for arm in arms] for counted in credits.values()], dtype=np.int64).reshape(-1, 2)
    p = srm({arm: first[arm] for arm in arms}, dict.fromkeys(arms, 0.5))
    found = preference(table, alpha=alpha, planned=planned)
    return {
        "layer": layer,
        "interleaved": True,
        "control": arms[A],
        "treatment": arms[B],
        "users": len(shown),
        "answers": answers,
        "items": {arm: owned[arm] for arm in arms},
        "events": {arm: int(table[:, place].sum()) for place, arm in enumerate(arms)},
        "first_place_p": p,
        "sound": p >= SRM_ALARM,
        "preference": vars(found),
    }


def to_markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    told, a, b = found["preference"], found["control"], found["treatment"]
    lines = [f"# {found['layer']} (interleaved)", ""]
    if not found["sound"]:
        lines += [f"**Not sound** (first places: p = {found['first_place_p']:.2g}): do not read the preference.", ""]
    lines += ["| way | items shown | events | users who preferred it |", "|---|---|---|---|"]
    lines += [
        f"| {arm} | {found['items'][arm]:,} | {found['events'][arm]:,} | {told['wins'][place]:,} |"
        for place, arm in enumerate((a, b))
    ]
    lines += [
        "",
        f"Preference for {b} over {a}, from −1 to 1, of {told['users']:,} users with events "
        f"({found['users']:,} users, {found['answers']:,} answers): **{told['value']:+.4f}**, one look "
        f"{told['low']:+.4f} … {told['high']:+.4f}, any number of looks {told['always_low']:+.4f} … "
        f"{told['always_high']:+.4f}.",
    ]
    return "\n".join(lines) + "\n"
