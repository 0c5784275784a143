"""Which requests run next, within budgets, by deadline.

Earliest deadline first (Liu & Layland 1973): ``next = argmin (catalog, deadline, arrival)``; a request without a
deadline has one ``patience_s`` after it arrived, so that none waits forever. We deviate: requests further back join a
batch whose head they fit beside; the head itself is never passed over, because whatever is admitted fits alone.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from operator import add

from genrecall.engine.host.cost import CostModel
from genrecall.engine.host.prefix_cache import Lease, PrefixCache
from genrecall.engine.host.step import Kind, Load, Seat, StepPlan
from genrecall.errors import CapacityError

_LOOK = 4  # a batch looks at so many times the requests that it can hold
_MISSES = 64  # and ends where so many in a row did not fit


class Dropped(Enum):
    """Why a request has no answer."""

    CANCELLED = "cancelled"
    LATE = "its deadline passed, or would have before an answer"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Budgets of one batch; a request that exceeds one of the first two alone gets a batch of its own.

    Attributes:
        rows: the most beams of one level.
        tokens: the most prompt tokens to read.
        requests: the most requests.
        filters: the most distinct item filters.
        widest: the most beams that one request may hold; wider ones are refused.
        seconds: a batch is not filled beyond what is expected to take so long, or twice as long as its head alone.
        patience_s: deadline of requests that name none.
    """

    rows: int
    tokens: int
    requests: int
    filters: int
    widest: int
    seconds: float = float("inf")
    patience_s: float = 3600.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A request as the scheduler sees it.

    Attributes:
        number: unlike that of any other job.
        kind: search or scoring.
        catalog: version of the trie.
        tokens: the prompt.
        user: whose pages it may share; None: nobody's.
        rows: beams after each level.
        narrowest: what ``rows`` may be cut to so that the deadline holds.
        item_filter: which filter; None: none.
        deadline_s: on the scheduler's clock; None: patience.
    """

    number: int
    kind: Kind
    catalog: int
    tokens: Sequence[int]
    user: str | None
    rows: tuple[int, ...]
    narrowest: tuple[int, ...]
    item_filter: int | None = None
    deadline_s: float | None = None


@dataclass(order=True)
class _Waiting:
    catalog: int
    deadline_s: float
    number: int
    job: Job = field(compare=False)


@dataclass
class _Batch:
    """A batch that is being filled."""

    seats: list[Seat] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    filters: set[int] = field(default_factory=set)
    head: Job | None = None
    rows: tuple[int, ...] = ()
    load: Load = field(default_factory=Load)
    due_s: float = float("inf")
    most_s: float = float("inf")


class _Fate(Enum):
    SEATED, WAITS, LATE = range(3)


class Scheduler:
    """Turns waiting jobs into plans.

    Args:
        limits: budgets.
        cache: leases pages.
        cost: predicts seconds.
        clock: seconds, as ``time.monotonic``.
    """

    def __init__(self, limits: Limits, cache: PrefixCache, cost: CostModel, clock: Callable[[], float]) -> None:
        self.limits, self.cache, self.cost, self.clock = limits, cache, cost, clock
        self._waiting: list[_Waiting] = []
        self._running: dict[StepPlan, list[Lease]] = {}
        self._given_up: dict[int, Dropped] = {}
        self._due: dict[int, float] = {}
        self._dropped: list[tuple[int, Dropped]] = []

    @property
    def waiting(self) -> int:
        """Jobs that no plan holds yet."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether what waits would fill a batch, so that waiting for more gains nothing."""
        if len(self._waiting) >= self.limits.requests:
            return True
        rows = sum(max(entry.job.rows) for entry in self._waiting)
        tokens = sum(len(entry.job.tokens) for entry in self._waiting)
        return rows >= self.limits.rows or tokens >= self.limits.tokens

    @property
    def running(self) -> Sequence[StepPlan]:
        """Batches that are on their way."""
        return tuple(self._running)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            CapacityError: it could never run: its prompt needs more pages than there are, or its beam more rows.
        """
        pages, capacity = self.cache.pages_for(len(job.tokens)), self.cache.allocator.capacity
        if pages > capacity:
            raise CapacityError(
                "a prompt does not fit into the engine's key-value memory",
                seen=f"{len(job.tokens)} tokens",
                allowed=f"at most {capacity * self.cache.page_tokens}",
                fix="shorten the prompt, or give the engine more with kv_tokens",
            )
        if max(job.rows) > self.limits.widest:
            raise CapacityError(
                "a beam is wider than the engine allows",
                seen=max(job.rows),
                allowed=f"at most {self.limits.widest}",
                fix="ask for a narrower beam, or raise the engine's widest_beam",
            )
        deadline = self.clock() + self.limits.patience_s if job.deadline_s is None else job.deadline_s
        self.cache.prefetch(job.user, job.tokens)
        insort(self._waiting, _Waiting(job.catalog, deadline, job.number, job))

    def cancel(self, number: int) -> bool:
        """Drop a job: at once where it waits, before the next level where it runs. False: it is not here."""
        for place, entry in enumerate(self._waiting):
            if entry.number == number:
                del self._waiting[place]
                self._dropped.append((number, Dropped.CANCELLED))
                return True
        if any(seat.job == number for plan in self._running for seat in plan.seats):
            self._given_up[number] = Dropped.CANCELLED
            return True
        return False

    def given_up(self, plan: StepPlan) -> list[int]:
        """Places of a running batch's seats whose answer nobody waits for any more: cancelled, or past its deadline."""
        now = self.clock()
        for seat in plan.seats:
            if now > self._due.get(seat.job, now):
                self._given_up.setdefault(seat.job, Dropped.LATE)
        return [place for place, seat in enumerate(plan.seats) if seat.job in self._given_up]

    def rows(self) -> tuple[int, int]:
        """Beams of the running batches that are still wanted, and of the jobs that wait."""
        running = sum(max(seat.rows) for plan in self._running for seat in plan.seats if seat.job not in self._given_up)
        return running, sum(max(entry.job.rows) for entry in self._waiting)

    def purge(self, user: str) -> None:
        """Forget a user's pages; what they asked before is answered without keeping any."""
        self.cache.purge(user)
        for entry in self._waiting:
            if entry.job.user == user:
                entry.job = replace(entry.job, user=None)

    def plan(self, busy_s: float = 0.0) -> StepPlan | None:
        """The next batch, or None where nothing waits or pages are all in use.

        Args:
            busy_s: seconds until the device has done what it was given.
        """
        start = self.clock() + busy_s
        batch, kept, misses = _Batch(), [], 0
        for looked, entry in enumerate(self._waiting, 1):
            fate = self._seat(batch, entry, start)
            if fate is _Fate.LATE:
                self._dropped.append((entry.number, Dropped.LATE))
            elif fate is _Fate.WAITS:
                kept.append(entry)
            waits_for_pages = fate is _Fate.WAITS and not batch.seats
            misses = misses + 1 if fate is _Fate.WAITS else 0
            enough = len(batch.seats) == self.limits.requests or looked == _LOOK * self.limits.requests
            if waits_for_pages or enough or misses == _MISSES:
                break
        self._waiting = kept + self._waiting[looked:] if self._waiting else []
        if batch.head is None:
            return None
        plan = StepPlan(kind=batch.head.kind, catalog=batch.head.catalog, seats=tuple(batch.seats))
        self._running[plan] = batch.leases
        return plan

    def finish(self, plan: StepPlan, seconds: float | None = None, ran: Load | None = None) -> list[bool]:
        """A batch is done: free its pages and learn what it took. Returns which seats still want their answer.

        Args:
            plan: of the batch.
            seconds: that it took; None: they say nothing.
            ran: what of it was computed in that time; None: all.
        """
        for lease in self._running.pop(plan):
            self.cache.release(lease)
        if seconds is not None:
            self.cost.observe(ran or plan.load, seconds)
        reasons = [self._given_up.pop(seat.job, None) for seat in plan.seats]
        for seat, reason in zip(plan.seats, reasons, strict=True):
            self._due.pop(seat.job, None)
            if reason is not None:
                self._dropped.append((seat.job, reason))
        return [reason is None for reason in reasons]

    def dropped(self) -> list[tuple[int, Dropped]]:
        """Jobs that will get no answer, each told once."""
        told, self._dropped = self._dropped, []
        return told

    def _seat(self, batch: _Batch, entry: _Waiting, start: float) -> _Fate:
        """Seat a job if every budget and every deadline of the batch allows it."""
        job, limits, size = entry.job, self.limits, len(entry.job.tokens)
        due = float("inf") if job.deadline_s is None else job.deadline_s
        if start > due:
            return _Fate.LATE
        cached = self.cache.hit(job.user, job.tokens)
        filters = batch.filters if job.item_filter is None else batch.filters | {job.item_filter}
        if batch.head is not None and not (
            max(map(add, batch.rows, job.rows)) <= limits.rows
            and (job.kind, job.catalog) == (batch.head.kind, batch.head.catalog)
            and batch.load.tokens + size - cached <= limits.tokens
            and self.cost.seconds(batch.load + Load.of(size, cached, job.rows)) <= batch.most_s
            and len(filters) <= limits.filters
        ):
            return _Fate.WAITS
        for rows in _narrower(job.rows, job.narrowest):
            load = batch.load + Load.of(size, cached, rows)
            in_time = start + self.cost.seconds(load) <= min(batch.due_s, due)
            if in_time:
                break
        if not in_time:
            return _Fate.LATE if batch.head is None else _Fate.WAITS
        lease = self.cache.lease(job.user, job.tokens)
        if lease is None:
            return _Fate.WAITS
        if batch.head is None:
            batch.head, batch.most_s = job, max(limits.seconds, 2 * self.cost.seconds(load))
        batch.seats.append(Seat(job=job.number, length=size, cached=lease.cached, pages=lease.pages, rows=rows))
        batch.leases.append(lease)
        if job.deadline_s is not None:
            self._due[job.number] = job.deadline_s
        batch.rows = tuple(map(add, batch.rows, rows)) if batch.rows else rows
        batch.filters, batch.load, batch.due_s = filters, load, min(batch.due_s, due)
        return _Fate.SEATED


def _narrower(rows: tuple[int, ...], narrowest: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The widths asked for, then halves of them down to the narrowest."""
    tried = [rows]
    while tried[-1] != narrowest:
        tried.append(tuple(max(width // 2, least) for width, least in zip(tried[-1], narrowest, strict=True)))
    return tried
