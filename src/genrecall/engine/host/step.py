"""What a batch is to compute, in plain integers of few distinct sizes.

``fit(n) = g·⌈n / g⌉ with g = 2^⌊log2 n⌋ / 8, 8 ≤ g ≤ 128``: eight sizes an octave, and no more than one tile of a
matrix product too many. Static sizes let one CUDA graph serve every batch of its size (as batch sizes do in Kwon et al.
2023); we deviate by rounding rows of every level and prompt tokens each for themselves.

Where a size has no graph yet, a batch may take larger ones that have: ``near``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from operator import ge

_FINEST, _COARSEST, _AN_OCTAVE = 8, 128, 8
_PAGES = 16
"""The least places in a prompt's row of the page table."""


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


def fit_pages(count: int) -> int:
    """Places in a prompt's row of the page table: a power of two."""
    return max(_PAGES, 1 << (count - 1).bit_length())


def near(count: int, passes: int = 1) -> int:
    """How many rows may run in ``passes`` passes in place of ``count``: an eighth more, or one tile of a matrix product
    more in each pass, which reads the same weights.
    """
    return max(count + count // 8, count + passes * _COARSEST)


def ladder(least: int, most: int) -> list[int]:
    """Few sizes, of which one lies ``near`` above any other from ``least`` to ``most``."""
    found: list[int] = []
    sizes = sorted({fit(count) for count in range(least, most + 1)})
    for size, following in zip(sizes, [*sizes[1:], None], strict=True):
        if following is None or following > near(found[-1] if found else least):
            found.append(size)
    return found


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
    def sizes(self) -> Sizes:
        """The least that it is padded to."""
        seats = self.seats
        return Sizes(
            requests=fit_requests(len(seats)),
            pages=fit_pages(max(len(seat.pages) for seat in seats)),
            tokens=fit(sum(seat.length - seat.cached for seat in seats)),
            rows=tuple(fit(sum(level)) for level in zip(*(seat.rows for seat in seats), strict=True)),
            widest=1 << (max(max(seat.rows) for seat in seats) - 1).bit_length(),
        )

    @cached_property
    def load(self) -> Load:
        """What the cost model is asked about."""
        load = Load()
        for seat in self.seats:
            load += Load.of(seat.length, seat.cached, seat.rows)
        return load


@dataclass(frozen=True)
class Sizes:
    """What a batch is padded to.

    Attributes:
        requests: R.
        pages: Q, places in a prompt's row of the page table.
        tokens: T, prompt tokens to read.
        rows: M after each of L levels.
        widest: at least the most rows of one request after any level; a power of two.
    """

    requests: int
    pages: int
    tokens: int
    rows: tuple[int, ...]
    widest: int

    @property
    def run(self) -> int:
        """Beams that go through the model, over all levels; those of the last level do not."""
        return sum(self.rows[:-1])

    def hold(self, other: Sizes) -> bool:
        """Whether a batch of the other sizes fits."""
        return (
            self.requests >= other.requests
            and self.pages >= other.pages
            and self.tokens >= other.tokens
            and self.widest >= other.widest
            and all(map(ge, self.rows, other.rows))
        )


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
