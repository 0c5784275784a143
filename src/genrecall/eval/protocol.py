"""Under which rules a table was made: figures without them cannot be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrecall.errors import ConfigError
from genrecall.eval.metrics import KS

_REPEATS = {"first": "first-time items only (each user's first event on an item)", "keep": "all events, repeats kept"}
_HISTORY = {
    "removed": "history items are removed from the lists",
    "kept": "history items are kept in the lists",
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of one evaluation; printed with every table.

    Attributes:
        split: the split's rule as a sentence (``Split.rule``).
        repeats: ``first`` counts only a user's first event on an item, ``keep`` all.
        tie_seed: ties in time were shuffled with this seed; None means the source's order.
        timed: whether there are timestamps that can tie at all.
        history: whether lists may hold items of the user's history.
        ks: cut-offs of the metrics.
        part: which cases: ``test``, or ``validation`` while choosing.
        remarks: anything else that changes the figures, e.g. thinned events.
    """

    split: str
    repeats: Literal["first", "keep"] = "keep"
    tie_seed: int | None = 0
    timed: bool = True
    history: Literal["removed", "kept"] = "removed"
    ks: tuple[int, ...] = KS
    part: str = "test"
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
    def ties(self) -> str:
        """How events of the same time are ordered."""
        if self.timed and self.tie_seed is not None:
            return f"ties in time shuffled (seed {self.tie_seed})"
        return "source order" if self.timed else "source order (no timestamps)"

    def brief(self) -> str:
        """The two rules that move figures most, for the tables that cannot carry the whole sentence."""
        return f"{self.ties}; {_HISTORY[self.history]}"

    def sentence(self) -> str:
        """All rules in one sentence."""
        rules = [self.split.rstrip("."), _REPEATS[self.repeats], self.ties, _HISTORY[self.history]]
        rules += ["every item of the catalog is ranked", *self.remarks]
        return "; ".join(rules) + "."

    def to_dict(self) -> dict[str, object]:
        """The rules for a JSON report."""
        return {
            "split": self.split,
            "repeats": self.repeats,
            "ties": self.ties,
            "history": self.history,
            "ks": list(self.ks),
            "part": self.part,
            "remarks": list(self.remarks),
            "sentence": self.sentence(),
        }
