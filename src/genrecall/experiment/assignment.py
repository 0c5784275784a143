"""Which arm a user is in: the same one always, and independently in every layer.

    u = BLAKE2b(salt ∥ user) / 2⁶⁴,    arm = the first whose cumulated share exceeds u

Overlapping layers after Tang, Agarwal, O'Brien & Meyer, "Overlapping experiment infrastructure" (KDD 2010): each layer
hashes with a salt of its own, so that arms of different layers are independent. Deviation: shares may sum to less than
1; the rest is in no arm.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrecall.errors import ConfigError

_KNOBS = ("channels", "beam", "explore")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of answering.

    Attributes:
        share: of all users, 0 to 1.
        channels: that answer; None: as without the experiment.
        beam: W; None likewise.
        explore: share of this arm's answers whose order is drawn at random, for off-policy evaluation.
    """

    share: float
    channels: tuple[str, ...] | None = None
    beam: int | None = None
    explore: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One experiment; a user is in at most one of its arms.

    Attributes:
        name: of the experiment.
        salt: another one draws the users anew.
        arms: by name; the first is the control.
        interleave: users of either arm get one list that both of its two arms made (see ``interleaving``).
    """

    name: str
    salt: str
    arms: Mapping[str, Arm]
    interleave: bool = False

    def __post_init__(self) -> None:
        total = sum(arm.share for arm in self.arms.values())
        if not self.arms or min(arm.share for arm in self.arms.values()) <= 0 or total > 1 + 1e-9:
            raise ConfigError(
                f"the arms of {self.name} cannot be filled",
                seen=", ".join(f"{name} {arm.share}" for name, arm in self.arms.items()) or "no arms",
                allowed="shares above 0 that sum to at most 1",
                fix="correct the shares",
            )
        if any(not 0 <= arm.explore < 1 or (arm.explore and self.interleave) for arm in self.arms.values()):
            raise ConfigError(
                f"the arms of {self.name} cannot explore like this",
                seen=", ".join(f"{name}: explore {arm.explore:g}" for name, arm in self.arms.items()),
                allowed="0 up to, but not including, 1; 0 where arms are interleaved",
                fix="correct explore",
            )
        if self.interleave and (
            len(self.arms) != 2 or any(arm.channels is None or arm.beam for arm in self.arms.values())
        ):
            raise ConfigError(
                f"the arms of {self.name} cannot be interleaved",
                seen=", ".join(f"{name}: {arm}" for name, arm in self.arms.items()),
                allowed="two arms with channels and without a beam: one request has one",
                fix="correct the arms, or leave interleave out",
            )

    def arm_of(self, user_id: str) -> str | None:
        """The user's arm; None for those outside."""
        digest = hashlib.blake2b(f"{self.salt}\0{user_id}".encode(), digest_size=8).digest()
        place, reached = int.from_bytes(digest, "big") / 2**64, 0.0
        for name, arm in self.arms.items():
            reached += arm.share
            if place < reached:
                return name
        return None


def read_layers(file: Path) -> list[Layer]:
    """Layers of a TOML file: ``[LAYER]`` with ``salt`` and ``interleave``; ``[LAYER.arms.ARM]`` with ``share`` and what
    the arm changes.

    Raises:
        ConfigError: a file that cannot be read as that.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        return [
            Layer(
                name=name,
                salt=str(body.get("salt", name)),
                arms={arm: _arm(it) for arm, it in body["arms"].items()},
                interleave=bool(body.get("interleave", False)),
            )
            for name, body in raw.items()
        ]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            "the experiments cannot be read",
            seen=f"{file}: {type(error).__name__}: {error}",
            allowed=f"[LAYER] with [LAYER.arms.ARM]: share, and optionally {', '.join(_KNOBS)}",
            fix="see docs/guides/experiments.md",
        ) from None


def _arm(told: Mapping[str, Any]) -> Arm:
    unknown = set(told) - {"share", *_KNOBS}
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    channels = told.get("channels")
    return Arm(
        share=float(told["share"]), channels=None if channels is None else tuple(channels), beam=told.get("beam"),
        explore=float(told.get("explore", 0.0)),
    )  # fmt: skip
