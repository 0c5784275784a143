"""Under which rules a table was made: figures without them cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal
from typing import Protocol as Interface

from genrecall.errors import ConfigError
from genrecall.eval.metrics import KS, metric_names

_REPEATS = {"first": "first-time items only (each user's first event on an item)", "keep": "all events, repeats kept"}
_HISTORY = {
    "removed": "history items are removed from the lists",
    "kept": "history items are kept in the lists",
}


class Rules(Interface):
    """What every kind of evaluation says of itself."""

    @property
    def ks(self) -> tuple[int, ...]:
        """Cut-offs, ascending."""
        ...

    @property
    def unit(self) -> str:
        """What is counted: ``cases`` or ``queries``."""
        ...

    def metric_names(self) -> list[str]:
        """The columns of a result's gains."""
        ...

    def brief(self) -> str:
        """The rules that move figures most, for tables that cannot carry the whole sentence."""
        ...

    def sentence(self) -> str:
        """All rules in one sentence."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The rules for a JSON report."""
        ...


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of a next-item evaluation; printed with every table.

    Attributes:
        split: the split's rule as a sentence (``Split.rule``).
        repeats: ``first`` counts only a user's first event on an item, ``keep`` all.
        tie_seed: ties in time were shuffled with this seed; None means the source's order.
        timed: whether there are timestamps that can tie at all.
        history: whether lists may hold items of the user's history.
        ks: cut-offs of the metrics.
        remarks: anything else that changes the figures, e.g. thinned events.
    """

    split: str
    repeats: Literal["first", "keep"] = "keep"
    tie_seed: int | None = 0
    timed: bool = True
    history: Literal["removed", "kept"] = "removed"
    ks: tuple[int, ...] = KS
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or list(self.ks) != sorted(set(self.ks)):
            raise ConfigError(
                "the cut-offs of the metrics are not usable",
                seen=self.ks,
                allowed="distinct positive numbers in ascending order",
                fix="for example ks=(5, 10, 20, 50)",
            )
        if self.repeats not in _REPEATS or self.history not in _HISTORY:
            raise ConfigError(
                "the protocol names a rule that does not exist",
                seen=f"repeats={self.repeats!r}, history={self.history!r}",
                allowed="repeats 'first' or 'keep'; history 'removed' or 'kept'",
                fix="correct the Protocol",
            )

    @property
    def unit(self) -> str:
        """What is counted."""
        return "cases"

    def metric_names(self) -> list[str]:
        """``recall@5``, …"""
        return metric_names(self.ks)

    @property
    def shuffled(self) -> bool:
        """Whether events of equal time were shuffled; otherwise they stand in the source's order."""
        return self.timed and self.tie_seed is not None

    @property
    def ties(self) -> str:
        """How events of the same time are ordered."""
        if self.shuffled:
            return f"ties in time shuffled (seed {self.tie_seed})"
        why = "" if self.timed else "no timestamps: "
        return f"source order ({why}items of equal time stand as the source lists them, which may leak)"

    def brief(self) -> str:
        """The two rules that move figures most, for the tables that cannot carry the whole sentence."""
        return f"{self.ties if self.shuffled else 'source order'}; {_HISTORY[self.history]}"

    def sentence(self) -> str:
        """All rules in one sentence."""
        rules = [self.split.rstrip("."), _REPEATS[self.repeats], self.ties, _HISTORY[self.history]]
        rules += ["every item of the catalog is ranked", *self.remarks]
        return "; ".join(rules) + "."

    def to_dict(self) -> dict[str, Any]:
        """The rules for a JSON report."""
        return {"kind": "next item", **asdict(self), "ties": self.ties}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Protocol:
        """Inverse of ``to_dict``."""
        names = ("split", "repeats", "tie_seed", "timed", "history")
        chosen = {name: data[name] for name in names}
        return cls(**chosen, ks=tuple(data["ks"]), remarks=tuple(data["remarks"]))
