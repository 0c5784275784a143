"""Which events of a history a prompt shows, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.errors import ConfigError

ORDERS = ("oldest_first", "newest_first")
DEDUPLICATIONS = ("none", "first", "last")


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """Settings of the history in a prompt.

    Attributes:
        max_items: the latest so many events are shown.
        order: ``oldest_first`` or ``newest_first``.
        deduplicate: of an item's events show all (``none``), only the ``first`` or only the ``last``.
        session_gap: put a separator token after the first item of each new time stamp. It stands *after* that item, so
            a prompt never says whether the item to predict belongs to a new session.
    """

    max_items: int = 50
    order: str = "oldest_first"
    deduplicate: str = "none"
    session_gap: bool = False

    def __post_init__(self) -> None:
        for name, seen, allowed in (
            ("order", self.order, ORDERS),
            ("de-duplication", self.deduplicate, DEDUPLICATIONS),
        ):
            if seen not in allowed:
                raise ConfigError(
                    f"unknown {name} of the history", seen=seen, allowed=", ".join(allowed), fix="choose another"
                )
        if self.max_items < 1:
            raise ConfigError(
                "a history needs room for an item",
                seen=self.max_items,
                allowed="1 or more",
                fix="raise max_items",
            )

    @property
    def grows(self) -> bool:
        """Whether one more event only adds tokens at the end, so that all prefixes of a history share one row."""
        return self.order == "oldest_first" and self.deduplicate != "last"


def shown(items: np.ndarray, config: HistoryConfig) -> np.ndarray:
    """Indices of the events to show, oldest first.

    Args:
        items: int (n,) item indices, oldest first.
        config: settings; ``order`` is not applied here.
    """
    kept = np.arange(len(items))
    if config.deduplicate == "first":
        kept = np.sort(np.unique(items, return_index=True)[1])
    elif config.deduplicate == "last":
        kept = np.sort(len(items) - 1 - np.unique(items[::-1], return_index=True)[1])
    return kept[-config.max_items :]
