"""The layout of semantic IDs: how many levels, how many codes each, how one is written.

Nobody else does arithmetic on offsets: a code of level ``l`` has the flat number ``offset(l) + code``, which orders the
SID tokens in every vocabulary and in the embedding rows that the engine reads.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

from genrecall.errors import CapacityError, ConfigError

_TOKEN = re.compile(r"<([a-z]{1,2})_(\d+)>")
_LETTERS = string.ascii_lowercase
_NAMES = [*_LETTERS, *(first + second for first in _LETTERS for second in _LETTERS)]  # a … z, aa, ab, …
MAX_LEVELS = 128


@dataclass(frozen=True)
class SidSpace:
    """``codes[l]`` is the number of codes of level ``l`` (0-based); an extra collision level may be of another size."""

    codes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.codes) <= MAX_LEVELS:
            raise ConfigError(
                "the number of SID levels is out of range",
                seen=len(self.codes), allowed=f"1 to {MAX_LEVELS}", fix="choose another --levels",
            )  # fmt: skip
        if min(self.codes) < 1:
            raise ConfigError(
                "a SID level needs at least one code",
                seen=self.codes,
                allowed="codes ≥ 1",
                fix="choose another --codes",
            )

    @classmethod
    def uniform(cls, levels: int, codes: int) -> SidSpace:
        """``levels`` levels of ``codes`` codes each."""
        return cls((codes,) * levels)

    @property
    def levels(self) -> int:
        """L, the length of a SID."""
        return len(self.codes)

    @property
    def capacity(self) -> int:
        """How many distinct SIDs exist."""
        return prod(self.codes)

    @property
    def num_tokens(self) -> int:
        """How many tokens write this space: the codes of all levels."""
        return sum(self.codes)

    def offset(self, level: int) -> int:
        """Flat number of the level's first code."""
        return sum(self.codes[:level])

    def require_capacity(self, items: int) -> None:
        """Refuse a space that cannot give every item a SID of its own."""
        if self.capacity < items:
            raise CapacityError(
                "the SID space cannot hold the catalog",
                seen=f"{' x '.join(map(str, self.codes))} = {self.capacity} SIDs for {items} items",
                allowed=f"at least {items} SIDs",
                fix="raise --levels or --codes, or let items share SIDs with --collisions keep",
            )

    def tokens(self) -> Iterator[str]:
        """The written form of every code, in flat order: ``<a_0> <a_1> … <b_0> …``."""
        for level, size in enumerate(self.codes):
            for code in range(size):
                yield self.token(level, code)

    def token(self, level: int, code: int) -> str:
        """Written form of one code, for example ``<a_99>``."""
        return f"<{_NAMES[level]}_{code}>"

    def format(self, sid: Sequence[int]) -> str:
        """Written form of a SID or of a prefix of one: ``<a_99><b_225><c_67><d_242>``."""
        return _form(len(sid)) % tuple(sid)

    def parse(self, text: str) -> tuple[int, ...]:
        """Read a written SID; the inverse of ``format`` for whole SIDs."""
        found = _TOKEN.findall(text.strip())
        sid = tuple(int(code) for _, code in found)
        written = len(sid) == self.levels and all(c < n for c, n in zip(sid, self.codes, strict=True))
        if not written or self.format(sid) != text.strip():
            raise ConfigError(
                "this is not a SID of this space",
                seen=text,
                allowed=f"{self.levels} codes such as {self.format([0] * self.levels)}, below {self.codes}",
                fix="copy the SID as `genrecall sid inspect` prints it",
            )
        return sid


@cache
def _form(levels: int) -> str:
    return "".join(f"<{name}_%d>" for name in _NAMES[:levels])
