"""The native wire format: what may be asked, with its bounds, and what is answered.

Bounds stand here so that a request that asks for too much is refused before anything of it is copied.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from genrecall.serve.worker.config import MAX_BEAM

MAX_K, MAX_HISTORY, MAX_EVENTS = 1000, 1000, 1000

Id = Annotated[str, Meta(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f\x7f]+$")]
Word = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(min_length=1, max_length=1000)]
Kind = Literal["click", "cart", "order", "exposure", "query"]
Role = Literal["active", "candidate", "previous"]


class Filter(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
    """Only items whose ``column`` has one of these values, or lies between these bounds.

    Filters act inside the search: as many eligible items come back as there are, up to k.
    """

    column: Word
    any_of: Annotated[list[Word], Meta(max_length=100)] = []
    at_least: float | None = None
    at_most: float | None = None


class Spread(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
    """At most ``most`` items whose SIDs share their first ``levels`` codes."""

    levels: Annotated[int, Meta(ge=1, le=8)] = 1
    most: Annotated[int, Meta(ge=1, le=MAX_K)] = 3


class Recommend(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
    """Which items next, for a user whose history is stored or for a history given here.

    ``release`` asks the bundle in that role, whoever the user is: for looking at one before it is activated. Answers to
    it, and to the scenario ``console``, are no part of any experiment's log.
    """

    user_id: Id | None = None
    history: Annotated[list[Id], Meta(max_length=MAX_HISTORY)] | None = None
    profile: Annotated[dict[Word, Word], Meta(max_length=50)] = {}
    scenario: Word = "default"
    k: Annotated[int, Meta(ge=1, le=MAX_K)] = 10
    beam: Annotated[int, Meta(ge=1, le=MAX_BEAM)] | None = None
    channels: Annotated[list[Word], Meta(min_length=1, max_length=20)] | None = None
    filters: Annotated[list[Filter], Meta(max_length=20)] = []
    exclude: Annotated[list[Id], Meta(max_length=MAX_HISTORY)] = []
    exclude_seen: bool = True
    spread: Spread | None = None
    deadline_ms: Annotated[int, Meta(ge=1, le=60_000)] | None = None
    release: Role | None = None
    explain: bool = False


class Search(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
    """Which items a search text asks for; the user's history, if any, stands before it."""

    query: Text
    user_id: Id | None = None
    history: Annotated[list[Id], Meta(max_length=MAX_HISTORY)] | None = None
    profile: Annotated[dict[Word, Word], Meta(max_length=50)] = {}
    scenario: Word = "search"
    k: Annotated[int, Meta(ge=1, le=MAX_K)] = 10
    beam: Annotated[int, Meta(ge=1, le=MAX_BEAM)] | None = None
    channels: Annotated[list[Word], Meta(min_length=1, max_length=20)] | None = None
    filters: Annotated[list[Filter], Meta(max_length=20)] = []
    exclude: Annotated[list[Id], Meta(max_length=MAX_HISTORY)] = []
    exclude_seen: bool = False
    spread: Spread | None = None
    deadline_ms: Annotated[int, Meta(ge=1, le=60_000)] | None = None
    release: Role | None = None
    explain: bool = False


class Rank(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In which order a user would want these items; nothing is recalled."""

    items: Annotated[list[Id], Meta(min_length=1, max_length=MAX_K)]
    user_id: Id | None = None
    history: Annotated[list[Id], Meta(max_length=MAX_HISTORY)] | None = None
    profile: Annotated[dict[Word, Word], Meta(max_length=50)] = {}
    deadline_ms: Annotated[int, Meta(ge=1, le=60_000)] | None = None


class RankedItem(msgspec.Struct, gc=False, frozen=True):
    """One item; ``probability`` is calibrated: that it is taken, among the candidates that recall would give."""

    item_id: str
    rank: int
    score: float
    probability: float


class Ranked(msgspec.Struct, frozen=True):
    """The answer to Rank: every known item once, best first; ``unknown`` are ids that the bundle does not know."""

    request_id: str
    items: list[RankedItem]
    unknown: list[str]
    versions: Versions
    timing_ms: dict[str, float]


class Event(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One behaviour. An event with a known ``event_id`` is not counted again."""

    user_id: Id
    item_id: Id | None = None
    event: Kind = "click"
    timestamp: Annotated[int, Meta(ge=0, le=1 << 40)] | None = None
    query: Text | None = None
    event_id: Id | None = None


class Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch of events, stored as a whole or not at all."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=MAX_EVENTS)]


class EventsStored(msgspec.Struct, frozen=True):
    """Everything accepted is on disk. ``sequence`` is the log's newest number."""

    accepted: int
    duplicates: int
    unknown_items: int
    sequence: int


class Placed(msgspec.Struct, gc=False, frozen=True):
    """Where a channel put an item."""

    rank: int
    score: float


class Item(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """One answered item.

    ``score`` orders the list: the ranker's where one ranked (``versions.ranker``), else the fusion's;
    ``sequence_score`` is the generative channel's Σ log p over the SID's codes, if it found it.
    """

    item_id: str
    title: str
    rank: int
    score: float
    sid: str
    channels: dict[str, Placed]
    sequence_score: float | None = None
    fallback: bool = False


class ChannelCoverage(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """What became of one channel: its list came (``ok``, ``empty``), or why it did not."""

    outcome: Literal["ok", "empty", "timeout", "shed", "error"]
    items: int
    ms: float
    why: str = ""


class Coverage(msgspec.Struct, gc=False, frozen=True):
    """How complete the answer is.

    Attributes:
        channels: by name.
        degraded: anything less than was asked for was done.
        reasons: what, in short words.
        beam: W that the generative channel searched with; 0 where it was not asked.
        beam_asked: W that was asked for.
        filled: items that only the fallback (popular items) gave.
    """

    channels: dict[str, ChannelCoverage]
    degraded: bool
    reasons: list[str]
    beam: int
    beam_asked: int
    filled: int


class Versions(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """What answered; all of it from one bundle. ``tables`` counts the deltas that the ranker's tables had taken in."""

    bundle: str
    catalog: str
    fusion: str
    genrecall: str
    release: str
    arms: dict[str, str] = {}
    ranker: str = ""
    tables: int = 0


class Answer(msgspec.Struct, gc=False, frozen=True):
    """The answer to Recommend and Search."""

    request_id: str
    items: list[Item]
    coverage: Coverage
    versions: Versions
    timing_ms: dict[str, float]


class Beam(msgspec.Struct, frozen=True):
    """A beam that survived a level; ``titles`` are of items below it."""

    sid: str
    score: float
    children: int
    pruned: int
    titles: list[str]


class Listing(msgspec.Struct, frozen=True):
    """One place of a channel's own list."""

    item_id: str
    title: str
    score: float


class Fused(msgspec.Struct, frozen=True):
    """One place of the fused list, before it was arranged.

    ``parts`` are what channels add to ``value`` (of ``quota`` the largest counts; of ``learned`` there are none);
    ``rank`` is its place in the answer, None where another item was preferred.
    """

    item_id: str
    place: int
    value: float
    parts: dict[str, float]
    rank: int | None


class Rules(msgspec.Struct, frozen=True):
    """By which rules an answer came about: the scenario's, where it sets any."""

    scenario: str
    method: str
    weights: dict[str, float]
    constant: float
    floors: dict[str, int]
    budgets_ms: dict[str, float]
    spread: Spread | None
    diversity: dict[str, float | int | str] | None
    fallback: list[str]


class Explained(msgspec.Struct, frozen=True):
    """Why an answer was as it was.

    ``fused`` is the list that ``rules`` made of the channels' lists. ``levels`` (the best beams of each) and
    ``survivors`` (how many there were) only where the request asked for an explanation.
    """

    request_id: str
    user_id: str | None
    query: str | None
    answer: Answer
    lists: dict[str, list[Listing]]
    rules: Rules
    fused: list[Fused]
    levels: list[list[Beam]] | None
    survivors: list[int] | None


class ItemPage(msgspec.Struct, frozen=True):
    """What is known of an item; ``neighbours`` share the longest prefix of its SID that others have."""

    item_id: str
    title: str
    sid: str
    available: bool
    fields: dict[str, str | float | int | bool | None]
    neighbours: list[dict[str, str]]
