"""What a batch is to compute, in plain integers of few distinct sizes.

``fit(n) = g·⌈n / g⌉ with g = 2^⌊log2 n⌋ / 8, 8 ≤ g ≤ 128``: eight sizes an octave, and no more than one tile of a
matrix product too many. Static sizes let one CUDA graph serve every batch of its size (as batch sizes do in Kwon et al.
2023); we deviate by rounding rows of every level and prompt tokens each for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

_FINEST, _COARSEST, _AN_OCTAVE = 8, 128, 8


class Kind(Enum):
    """What the seats of a batch want; a batch does one of both."""

    SEARCH = "search"
    SCORE = "score"


def fit(count: int) -> int:
    """The size that rows or tokens are padded to; 0 stays 0."""
    grain = max(_FINEST, min(_COARSEST, (1 << count.bit_length() - 1) // _AN_OCTAVE)) if count else 1
    return -(-count // grain) * grain


def fit_requests(count: int) -> int:
    """Requests are few and cheap to pad: powers of two."""
    return 1 << (count - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One request in a batch.

    Attributes:
        job: its number.
        length: prompt tokens.
        cached: of them, already in pages.
        pages: of the prompt, in order.
        rows: beams after each of L levels.
    """

    job: int
    length: int
    cached: int
    pages: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepPlan:
    """One batch: prompts are read, then all levels are written.

    Attributes:
        kind: search or teacher-forced scoring.
        catalog: version of the trie that all seats use.
        seats: the requests, in the order of their rows.
    """

    kind: Kind
    catalog: int
    seats: tuple[Seat, ...]

    @cached_property
    def requests(self) -> int:
        """Padded number of requests."""
        return fit_requests(len(self.seats))

    @cached_property
    def tokens(self) -> int:
        """Padded number of prompt tokens to read."""
        return fit(sum(seat.length - seat.cached for seat in self.seats))

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Padded number of beams after each level."""
        return tuple(fit(sum(level)) for level in zip(*(seat.rows for seat in self.seats), strict=True))

    @cached_property
    def load(self) -> Load:
        """What the cost model is asked about."""
        load = Load()
        for seat in self.seats:
            load += Load.of(seat.length, seat.cached, seat.rows)
        return load


@dataclass(frozen=True)
class Load:
    """Work of a batch; loads add up.

    Attributes:
        requests: how many.
        tokens: prompt tokens to read.
        rows: beams that go through the model, over all levels.
        pairs: query-key pairs of attention to prompts.
    """

    requests: int = 0
    tokens: int = 0
    rows: int = 0
    pairs: int = 0

    @classmethod
    def of(cls, length: int, cached: int, rows: tuple[int, ...]) -> Load:
        """Of one request; beams of the last level are not run."""
        run, read = sum(rows[:-1]), length - cached
        return cls(1, read, run, run * length + read * (length + cached) // 2)

    def __add__(self, other: Load) -> Load:
        return Load(
            self.requests + other.requests,
            self.tokens + other.tokens,
            self.rows + other.rows,
            self.pairs + other.pairs,
        )
