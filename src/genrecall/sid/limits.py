"""Settings of this package that mean nothing are refused where they are written, not where they first hurt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genrecall.errors import ConfigError

Limit = tuple[str, bool, str]
"""Name of a setting, whether its value is usable, and which values are."""


def require(config: Any, limits: Sequence[Limit]) -> None:
    """Refuse the first of a configuration's settings that is not usable."""
    for name, fine, allowed in limits:
        if not fine:
            raise ConfigError(
                f"the setting {name} of {type(config).__name__} is out of range",
                seen=repr(getattr(config, name)), allowed=allowed, fix=f"choose another {name}",
            )  # fmt: skip
