"""Settings of an import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from genrecall.catalog.columns import TICKS, TimeUnit
from genrecall.catalog.events import KINDS
from genrecall.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """How input becomes a catalog.

    Attributes:
        columns: our column name -> the source's (``{"title": "keywords"}``), for every table that has the latter.
        event_default: kind of events without a column ``event``.
        time_unit: of numeric timestamps in the source.
        k_core: keep only users and items with at least this many events, repeatedly; 0 keeps all, 1 drops items
            and users without events.
        min_rating: keep only events with at least this ``rating``; None keeps all.
        first_of_duplicate_items: keep the first row of a repeated item_id; otherwise repeated ids are an error.
        drop_textless: leave out items of which every text column is empty, and their events; otherwise they stay.
        strict: refuse input with any counted problem.
        now: UTC seconds against which the future is judged; None is the clock. Not part of the artifact's identity.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    event_default: str = "click"
    time_unit: TimeUnit = "s"
    k_core: int = 0
    min_rating: float | None = None
    first_of_duplicate_items: bool = False
    drop_textless: bool = False
    strict: bool = False
    now: int | None = None

    def __post_init__(self) -> None:
        if self.event_default not in KINDS:
            raise ConfigError(
                "unknown kind of event",
                seen=self.event_default,
                allowed=", ".join(KINDS),
                fix="give one of these to --event-default",
            )
        if self.time_unit not in TICKS:
            raise ConfigError(
                "unknown unit of time",
                seen=self.time_unit,
                allowed=", ".join(TICKS),
                fix="give one of these to --time-unit",
            )
        if self.k_core < 0:
            raise ConfigError(
                "k-core below zero", seen=self.k_core, allowed="0 or more", fix="use 0 to keep everything"
            )
        sources = list(self.columns.values())
        if len(set(sources)) < len(sources):
            raise ConfigError(
                "one source column is mapped twice",
                seen=", ".join(f"{ours}={theirs}" for ours, theirs in self.columns.items()),
                allowed="each source column at most once",
                fix="leave out one --map",
            )

    def identity(self) -> dict[str, object]:
        """What belongs in the artifact's configuration: all but the clock."""
        return {
            "columns": dict(self.columns),
            "event_default": self.event_default,
            "time_unit": self.time_unit,
            "k_core": self.k_core,
            "min_rating": self.min_rating,
            "first_of_duplicate_items": self.first_of_duplicate_items,
            "drop_textless": self.drop_textless,
            "strict": self.strict,
        }
