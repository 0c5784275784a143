"""What a multi-task epoch is made of: which questions, and in which shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from genrecall.errors import ConfigError

NEXT_ITEM, SEARCH, QUERY_TO_SID = "next_item", "search", "query_to_sid"
_TO_SID, _TO_TEXT = "_to_sid", "sid_to_"

ALIGNMENT: Mapping[str, float] = {
    "title_to_sid": 2.0,
    "sid_to_title": 2.0,
    QUERY_TO_SID: 2.0,
    "categories_to_sid": 1.0,
    "brand_to_sid": 0.5,
    "description_to_sid": 1.0,
    "sid_to_categories": 1.0,
    "sid_to_brand": 0.5,
    "sid_to_description": 1.0,
}
"""Shares of the first phase; what a catalog has no text for is left out."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question.

    Attributes:
        name: as in a mixture.
        column: the text column it asks about; empty for ``next_item``, ``search`` and ``query_to_sid``.
        to_text: whether the answer is a text; else it is a SID.
    """

    name: str
    column: str = ""
    to_text: bool = False

    @classmethod
    def of(cls, name: str) -> Task:
        """The task with this name.

        Raises:
            ConfigError: there is none.
        """
        if name in (NEXT_ITEM, SEARCH, QUERY_TO_SID):
            return cls(name=name)
        if name.endswith(_TO_SID) and name != _TO_SID:
            return cls(name=name, column=name.removesuffix(_TO_SID))
        if name.startswith(_TO_TEXT) and name != _TO_TEXT:
            return cls(name=name, column=name.removeprefix(_TO_TEXT), to_text=True)
        raise ConfigError(
            "there is no such training task",
            seen=name,
            allowed=f"{NEXT_ITEM}, {SEARCH}, {QUERY_TO_SID}, COLUMN{_TO_SID} or {_TO_TEXT}COLUMN",
            fix="correct the mixture, for example title_to_sid=2,sid_to_title=1",
        )


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Shares of the tasks, and how their texts are read.

    Attributes:
        shares: of the answers of an epoch, by task; they need not add up to 1. With ``next_item`` every event is a
            target once an epoch and the others follow from it. Tasks: ``next_item``; ``search`` (a query after a
            history); ``query_to_sid`` (a query alone); ``COLUMN_to_sid`` and ``sid_to_COLUMN`` for any text column.
        answers: an epoch without ``next_item`` has so many; None: one an item and task, on average.
        text_weight: of the loss of one token of a text, beside 1 for a code.
        most_tokens: of a text; the rest is left out.
        warm_only: texts of items without training events stay unseen: for figures of items that came later.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: dict(ALIGNMENT))
    answers: int | None = None
    text_weight: float = 0.25
    most_tokens: int = 48
    warm_only: bool = False

    def __post_init__(self) -> None:
        for name in self.shares:
            Task.of(name)
        limits = (
            ("shares", bool(self.shares) and min(self.shares.values()) > 0, "at least one task, each above 0"),
            ("answers", self.answers is None or self.answers >= 1, "1 or more, or none"),
            ("text_weight", self.text_weight > 0, "more than 0"),
            ("most_tokens", self.most_tokens >= 1, "1 or more"),
        )
        for name, fine, allowed in limits:
            if not fine:
                raise ConfigError(
                    f"the mixture's {name} cannot be used",
                    seen=vars(self)[name],
                    allowed=allowed,
                    fix=f"choose other {name}",
                )

    @property
    def tasks(self) -> list[Task]:
        """The tasks, in the order of their names."""
        return [Task.of(name) for name in sorted(self.shares)]

    @property
    def columns(self) -> list[str]:
        """The text columns that are asked about."""
        return sorted({task.column for task in self.tasks if task.column})


def parse_shares(text: str) -> dict[str, float]:
    """Shares as they are typed: ``title_to_sid=2,sid_to_title=1``."""
    shares = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share) if share else 1.0
        except ValueError:
            raise ConfigError(
                "the mixture cannot be read",
                seen=part,
                allowed="TASK=SHARE, separated by commas",
                fix="write for example title_to_sid=2,sid_to_title=1",
            ) from None
    return shares
