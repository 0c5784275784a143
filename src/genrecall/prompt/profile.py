"""A user's profile columns as one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileTemplate:
    """How profile columns become text.

    Attributes:
        sentence: with the place ``{profile}``; left out as a whole for a user without profile.
        field: one column, with the places ``{name}`` and ``{value}``.
        joiner: between columns.
        names: what a column is called in the text; its own name where it is not listed.
    """

    sentence: str = "{profile}"
    field: str = "{name} {value}"
    joiner: str = " "
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def render(self, profile: Mapping[str, str]) -> str:
        """The sentence; columns by name, so that their order in the file does not matter; empty values left out."""
        parts = [
            _fill(self.field, name=self.names.get(name, name), value=value.strip())
            for name, value in sorted(profile.items())
            if value.strip()
        ]
        return _fill(self.sentence, profile=self.joiner.join(parts)) if parts else ""


def _fill(pattern: str, **values: str) -> str:
    """Put values into their places; other braces stay as they are."""
    for name, value in values.items():
        pattern = pattern.replace("{" + name + "}", value)
    return pattern
