"""Which arm a user is in: the same one always, and independently in every layer.

    u = BLAKE2b(salt ∥ user) / 2⁶⁴,    arm = the first whose cumulated share exceeds u

Overlapping layers after Tang, Agarwal, O'Brien & Meyer, "Overlapping experiment infrastructure" (KDD 2010): each layer
hashes with a salt of its own, so that arms of different layers are independent. Deviation: shares may sum to less than
1; the rest is in no arm.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
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

    def __post_init__(self) -> None:
        # Requests take over what an arm says unseen, so that a wrong one would fail each of its users' requests.
        if self.channels is not None and not all(isinstance(name, str) for name in self.channels or (None,)):
            raise ValueError(f"channels {self.channels!r}: names, one or more")
        if self.beam is not None and not (type(self.beam) is int and self.beam >= 1):
            raise ValueError(f"beam {self.beam!r}: a whole number, 1 or more")


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
        if not self.arms or not all(arm.share > 0 for arm in self.arms.values()) or total > 1 + 1e-9:
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
        return [_layer(name, body) for name, body in raw.items()]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            "the experiments cannot be read",
            seen=f"{file}: {type(error).__name__}: {error}",
            allowed=f"[LAYER] with [LAYER.arms.ARM]: share, and optionally {', '.join(_KNOBS)}",
            fix="see docs/guides/experiments.md",
        ) from None


def _layer(name: str, told: Mapping[str, Any]) -> Layer:
    _require_known(told, ("salt", "interleave", "arms"))
    interleave = told.get("interleave", False)
    if not isinstance(interleave, bool):
        raise ValueError(f"interleave {interleave!r}: true or false")
    arms = {arm: _arm(it) for arm, it in told["arms"].items()}
    return Layer(name=name, salt=str(told.get("salt", name)), arms=arms, interleave=interleave)


def _arm(told: Mapping[str, Any]) -> Arm:
    _require_known(told, ("share", *_KNOBS))
    channels = told.get("channels")
    if not isinstance(channels, list | None):
        raise ValueError(f"channels {channels!r}: a list of names")
    return Arm(
        share=float(told["share"]), channels=None if channels is None else tuple(channels), beam=told.get("beam"),
        explore=float(told.get("explore", 0.0)),
    )  # fmt: skip


def _require_known(told: Mapping[str, Any], names: Sequence[str]) -> None:
    if unknown := sorted(set(told) - set(names)):
        raise ValueError(f"unknown {', '.join(unknown)}")
