"""What is in service, as the keeper tells it to the gateways; each brings itself to it and says so."""

from __future__ import annotations

from typing import Any

import msgspec


class Placed(msgspec.Struct, frozen=True):
    """A release: its role, its bundle, and the directory where its processes are found."""

    role: str
    path: str
    directory: str


class Layout(msgspec.Struct, frozen=True):
    """All releases; ``number`` grows with every change.

    Attributes:
        number: of two layouts the higher one holds.
        placed: active, candidate and previous, as far as there are any.
        percent: of the users that the candidate answers.
        trail: the last changes.
    """

    number: int
    placed: list[Placed]
    percent: float
    trail: list[dict[str, Any]]
