"""What a request's ``scenario`` means: channels with their budgets, fusion, arrangement, and what fills short lists.

One TOML table a scenario; requests name it. What a request says itself (channels, spread) stands.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import msgspec

from genrecall.errors import ConfigError
from genrecall.recall.fusion.rule import METHODS, Method
from genrecall.serve.schema import Spread

FALLBACKS = ("popularity_segment", "popularity")
"""Channels that only look up a list that is there, so that they cannot be late."""


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Maximal marginal relevance of the fused list.

    Attributes:
        balance: λ, from 0 (as different as can be) to 1 (as fused).
        by: ``vectors`` of the two towers, ``sid`` prefixes, or ``auto``: vectors where the bundle has them.
        depth: candidates that are looked at for each answered item.
    """

    balance: float = 0.7
    by: Literal["auto", "vectors", "sid"] = "auto"
    depth: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1 or self.by not in ("auto", "vectors", "sid") or not 1 <= self.depth <= 20:
            raise ValueError("diversity: balance 0 to 1, by auto, vectors or sid, depth 1 to 20")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How requests of one scenario are answered.

    Attributes:
        channels: that are asked; None: as the bundle says.
        method: of the fusion; None: the bundle's own, or reciprocal ranks where it ships none. ``weighted`` and
            ``learned`` are fitted, so that they are the bundle's or nobody's.
        constant: k of reciprocal ranks.
        weights: by channel, 1 where not given; of ``quota`` the shares.
        floors: least places by channel.
        budgets_ms: by channel; nobody has more than the request's deadline leaves.
        spread: at most so many items of a SID prefix.
        diversity: None keeps the fused order.
        fallback: what fills short lists, in this order; popularity is always the last.
    """

    channels: tuple[str, ...] | None = None
    method: Method | None = None
    constant: float = 60.0
    weights: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, int] = field(default_factory=dict)
    budgets_ms: Mapping[str, float] = field(default_factory=dict)
    spread: Spread | None = None
    diversity: Diversity | None = None
    fallback: tuple[str, ...] = FALLBACKS

    def __post_init__(self) -> None:
        problems = [
            ("method", self.method is None or self.method in METHODS, f"one of {', '.join(METHODS)}"),
            ("constant", self.constant > 0, "above 0"),
            ("weights", all(0 <= weight < math.inf for weight in self.weights.values()), "0 or more each"),
            ("floors", all(floor >= 0 for floor in self.floors.values()), "0 or more each"),
            ("budgets_ms", all(budget > 0 for budget in self.budgets_ms.values()), "above 0 each"),
            ("fallback", set(self.fallback) <= set(FALLBACKS), f"of {', '.join(FALLBACKS)}"),
            ("channels", self.channels is None or len(set(self.channels)) == len(self.channels) > 0, "distinct names"),
        ]
        wrong = [f"{name}: {allowed}" for name, fine, allowed in problems if not fine]
        if wrong:
            raise ValueError("; ".join(wrong))

    def budget_s(self, channel: str, left_s: float) -> float:
        """Seconds that a channel is waited for, of those that are left."""
        own = self.budgets_ms.get(channel)
        return left_s if own is None else min(left_s, own / 1e3)

    def depth(self, k: int, spread: Spread | None) -> int:
        """How many fused candidates an answer of ``k`` items is chosen from."""
        wide = [k]
        if spread is not None:
            wide.append(4 * k)
        if self.diversity is not None:
            wide.append(self.diversity.depth * k)
        if any(self.floors.values()):
            wide.append(k + 100)
        return max(wide)


def read_scenarios(file: Path) -> dict[str, Scenario]:
    """Scenarios of a TOML file: ``[NAME]`` with the attributes of :class:`Scenario`.

    Raises:
        ConfigError: a file that cannot be read as that.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        return {name: _scenario(told) for name, told in raw.items()}
    except (OSError, tomllib.TOMLDecodeError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            "the scenarios cannot be read",
            seen=f"{file}: {error}",
            allowed=f"[SCENARIO] with {', '.join(known.name for known in fields(Scenario))}",
            fix="see docs/guides/channels.md",
        ) from None


def _scenario(told: Mapping[str, Any]) -> Scenario:
    changed = dict(told)
    for name in ("channels", "fallback"):
        if name in changed:
            changed[name] = tuple(changed[name])
    if "spread" in changed:
        changed["spread"] = msgspec.convert(changed["spread"], Spread)
    if "diversity" in changed:
        changed["diversity"] = Diversity(**changed["diversity"])
    return Scenario(**changed)
