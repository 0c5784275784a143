"""The scheduler, pages and prefix cache as one state machine: nothing is lost, nothing is owned twice, nobody waits."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from genrecall.engine.host.cost import CostModel
from genrecall.engine.host.pages import PageAllocator
from genrecall.engine.host.prefix_cache import PrefixCache
from genrecall.engine.host.scheduler import Dropped, Job, Limits, Scheduler
from genrecall.engine.host.step import Kind, Load, StepPlan, fit
from genrecall.engine.host.tier import Slots, Way
from genrecall.errors import CapacityError

PAGES, SIZE = 24, 4
LIMITS = Limits(rows=30, tokens=40, requests=4, filters=2, widest=50, seconds=1.0, patience_s=50.0)


def make(limits: Limits = LIMITS, pages: int = PAGES, slots: int = 0) -> tuple[Scheduler, list[float]]:
    now = [0.0]
    cache = PrefixCache(PageAllocator(pages + 1), SIZE, Slots(slots))
    return Scheduler(limits, cache, CostModel(), lambda: now[0]), now


def job(number: int, tokens: list[int], rows: int = 5, **kwargs) -> Job:
    given = {
        "kind": Kind.SEARCH, "catalog": 0, "user": None, "rows": (rows, rows), "narrowest": (rows, rows), **kwargs,
    }  # fmt: skip
    return Job(number=number, tokens=tokens, **given)


class Machine(RuleBasedStateMachine):
    slots = 0

    def __init__(self) -> None:
        super().__init__()
        self.scheduler, self.now = make(slots=self.slots)
        self.bytes: dict[tuple[str, int], tuple[str | None, tuple[int, ...]]] = {}
        self.cache, self.allocator = self.scheduler.cache, self.scheduler.cache.allocator
        self.jobs: dict[int, Job] = {}
        self.ended: dict[int, object] = {}
        self.plans: list[StepPlan] = []
        self.purged: set[str] = set()

    @rule(
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=60),
        user=st.none() | st.sampled_from("ab"),
        rows=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        halved=st.booleans(),
        kind=st.sampled_from(Kind),
        catalog=st.integers(0, 1),
        item_filter=st.none() | st.integers(0, 3),
        patience=st.none() | st.integers(0, 20),
    )
    def submit(self, tokens, user, rows, halved, kind, catalog, item_filter, patience):
        number = len(self.jobs)
        asked = Job(
            number=number, kind=kind, catalog=catalog, tokens=tokens, user=user, rows=rows,
            narrowest=tuple(max(width // 2, 1) for width in rows) if halved else rows, item_filter=item_filter,
            deadline_s=None if patience is None else self.now[0] + patience,
        )  # fmt: skip
        self.jobs[number] = asked
        self.scheduler.submit(asked)
        self.move()
        self.purged.discard(user)

    @rule(number=st.integers(0, 200))
    def cancel(self, number):
        here = number in self.jobs and number not in self.ended
        assert self.scheduler.cancel(number) == here
        self.collect()

    @rule(user=st.sampled_from("ab"))
    def purge(self, user):
        self.scheduler.purge(user)
        self.purged.add(user)
        self.wipe()
        running = [page for plan in self.plans for seat in plan.seats for page in seat.pages]
        left = {where for where, (owner, _) in self.bytes.items() if owner == user}
        assert left <= {("page", page) for page in running}, "no byte of theirs stays but under running batches"

    @rule(busy=st.floats(0, 2))
    @precondition(lambda self: len(self.plans) < 3)
    def plan(self, busy):
        waiting = self.scheduler.waiting
        plan = self.scheduler.plan(busy)
        self.move()
        self.collect()
        if plan is None:
            # Only pages that running batches hold, or lateness, can keep a waiting job from its plan.
            assert self.plans or not self.scheduler.waiting
            return
        assert waiting > 0
        self.plans.append(plan)
        jobs = [self.jobs[seat.job] for seat in plan.seats]
        assert len({(one.kind, one.catalog) for one in jobs}) == 1
        assert len(plan.seats) <= LIMITS.requests
        assert len({one.item_filter for one in jobs} - {None}) <= LIMITS.filters
        if len(plan.seats) > 1:
            assert sum(seat.length - seat.cached for seat in plan.seats) <= LIMITS.tokens
            assert all(sum(level) <= LIMITS.rows for level in zip(*(seat.rows for seat in plan.seats), strict=True))
        for seat, asked in zip(plan.seats, jobs, strict=True):
            assert seat.length == len(asked.tokens)
            assert len(seat.pages) == -(-seat.length // SIZE)
            assert 0 <= seat.cached < seat.length
            self.write(seat, asked)
            assert all(
                low <= found <= top for low, found, top in zip(asked.narrowest, seat.rows, asked.rows, strict=True)
            )

    @rule(seconds=st.none() | st.floats(0.01, 0.5))
    @precondition(lambda self: self.plans)
    def finish(self, seconds):
        plan = self.plans.pop(0)
        for seat, wanted in zip(plan.seats, self.scheduler.finish(plan, seconds), strict=True):
            if wanted:
                self.end(seat.job, "answered")
        self.collect()
        self.wipe()

    @rule(seconds=st.floats(0.1, 30))
    def wait(self, seconds):
        self.now[0] += seconds

    def write(self, seat, asked):
        """What a batch finds in kept pages is the beginning of the prompt; the rest it writes itself."""
        for place, page in enumerate(seat.pages):
            part = (asked.user, tuple(asked.tokens[place * SIZE : (place + 1) * SIZE]))
            if place < seat.cached // SIZE:
                assert self.bytes[("page", page)] == part
            else:
                self.bytes[("page", page)] = part

    def move(self):
        busy = {page for plan in self.plans for seat in plan.seats for page in seat.pages}
        for move in self.cache.slots.moves():
            assert move.page not in busy, "copies run beside batches"
            page, slot = ("page", move.page), ("slot", move.slot)
            source, target = (page, slot) if move.way is Way.OFFLOAD else (slot, page)
            self.bytes[target] = self.bytes[source]

    def wipe(self):
        for page in self.cache.wipeable():
            self.bytes.pop(("page", page), None)
        for slot in self.cache.slots.wipeable():
            self.bytes.pop(("slot", slot), None)

    def end(self, number, how):
        assert number not in self.ended, "answered once"
        self.ended[number] = how

    def collect(self):
        for number, why in self.scheduler.dropped():
            if why is Dropped.LATE:
                assert self.jobs[number].deadline_s is not None
            self.end(number, why)

    @invariant()
    def pages_are_neither_lost_nor_owned_twice(self):
        leases = [lease.pages for held in self.scheduler._running.values() for lease in held]
        holders = [0] * (PAGES + 1)
        for pages in leases:
            for page in pages:
                holders[page] += 1
        for node in self.cache._recent:
            holders[node.page] += 1
        assert holders == [self.allocator.holders(page) for page in range(PAGES + 1)]
        held = [node.slot for node in (*self.cache._cold, *self.cache._backed)]
        assert sorted([*self.cache.slots._free, *held]) == list(range(self.slots))
        free = self.allocator.free_pages()
        assert sorted(free) == [page for page in range(1, PAGES + 1) if holders[page] == 0]
        assert holders[0] == 0

    @invariant()
    def private_pages_are_private(self):
        """Pages are written from ``cached`` on: whoever writes one is its only writer."""
        written = [page for plan in self.plans for seat in plan.seats for page in seat.pages[seat.cached // SIZE :]]
        assert len(written) == len(set(written))

    @invariant()
    def users_share_nothing(self):
        for node in (*self.cache._recent, *self.cache._cold):
            assert (node.page is None) == (node in self.cache._cold)
            assert (node.slot is not None) == (node in self.cache._cold or node in self.cache._backed)
            assert node.slot is None or self.bytes[("slot", node.slot)] == (node.user, node.key)
            assert node.page is not None or all(child.page is None for child in node.children.values())
            top = node
            while top.parent is not None:
                top = top.parent
            assert self.cache._roots[top.user] is top
        assert not self.purged & set(self.cache.users())

    def teardown(self):
        """Whatever happened, everybody is answered in the end."""
        for _ in range(3 * len(self.jobs) + 10):
            if self.plans:
                self.finish(None)
            plan = self.scheduler.plan()
            self.move()
            self.collect()
            if plan is not None:
                self.plans.append(plan)
                for seat in plan.seats:
                    self.write(seat, self.jobs[seat.job])
        assert set(self.ended) == set(self.jobs)
        assert self.allocator.available + self.cache.pages == PAGES


class TieredMachine(Machine):
    """With so few slots that they are dropped, too."""

    slots = 7


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestTieredMachine = TieredMachine.TestCase
TestTieredMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_cannot_fit_is_refused_up_front():
    scheduler, _ = make()
    with pytest.raises(CapacityError, match="key-value memory"):
        scheduler.submit(job(0, [1] * (PAGES * SIZE + 1)))
    with pytest.raises(CapacityError, match="wider"):
        scheduler.submit(job(1, [1], rows=51))
    scheduler.submit(job(2, [1] * (PAGES * SIZE), rows=50))
    plan = scheduler.plan()
    assert plan is not None
    assert plan.sizes.rows == (fit(50), fit(50))


def test_a_wide_request_among_narrow_ones_is_not_starved():
    scheduler, now = make()
    scheduler.submit(job(0, [1], rows=30))
    for number in range(1, 50):
        scheduler.submit(job(number, [1], rows=5))
        now[0] += 0.01
    first = scheduler.plan()
    assert [seat.job for seat in first.seats] == [0]


def test_appends_extend_what_is_kept_and_users_are_apart():
    scheduler, _ = make()
    for number, (user, tokens) in enumerate(
        [("a", [7] * 9), ("a", [7] * 9 + [1, 2, 3]), ("b", [7] * 9), (None, [7] * 9)]
    ):
        scheduler.submit(job(number, tokens, user=user))
    plan = scheduler.plan()
    assert [seat.cached for seat in plan.seats] == [0, 8, 0, 0]
    assert plan.seats[0].pages[:2] == plan.seats[1].pages[:2]
    others = {*plan.seats[2].pages, *plan.seats[3].pages}
    assert not others & {*plan.seats[0].pages, *plan.seats[1].pages}


def test_a_purged_user_leaves_no_pages_even_while_running():
    scheduler, _ = make()
    scheduler.submit(job(0, [7] * 9, user="a"))
    plan = scheduler.plan()
    scheduler.submit(job(1, [7] * 9, user="a"))
    scheduler.purge("a")
    wiped = set(scheduler.cache.wipeable())
    assert not wiped & set(plan.seats[0].pages)
    scheduler.finish(plan)
    wiped |= set(scheduler.cache.wipeable())
    assert wiped == set(range(1, PAGES + 1))
    assert scheduler.plan().seats[0].cached == 0
    assert scheduler.cache.users() == []


def test_late_requests_are_dropped_and_wide_ones_narrowed_first():
    scheduler, _ = make(Limits(rows=100, tokens=100, requests=4, filters=1, widest=100))
    for rows in range(8, 80, 4):
        scheduler.cost.observe(Load(1, 10, rows, 0), 0.1 * rows)
    assert scheduler.cost.seconds(Load(1, 10, 20, 0)) == pytest.approx(2.0, rel=0.05)
    scheduler.submit(job(0, [1], rows=80, narrowest=(10, 10), deadline_s=2.5))
    scheduler.submit(job(1, [1], rows=80, deadline_s=2.5))
    plan = scheduler.plan()
    assert [(seat.job, seat.rows) for seat in plan.seats] == [(0, (20, 20))]
    assert scheduler.plan() is None
    assert scheduler.dropped() == [(1, Dropped.LATE)]


def test_batches_end_where_they_would_take_too_long():
    scheduler, _ = make(Limits(rows=100, tokens=100, requests=8, filters=1, widest=100, seconds=0.5))
    for rows in range(8, 80, 4):
        scheduler.cost.observe(Load(1, 10, rows, 0), 0.01 * rows)
    for number in range(4):
        scheduler.submit(job(number, [1], rows=20))
    assert [len(scheduler.plan().seats) for _ in range(2)] == [2, 2]


def test_sizes_are_few_and_close():
    sizes = {fit(count) for count in range(1, 8193)}
    assert len(sizes) < 110
    for count in range(1, 8193):
        assert count <= fit(count) < count + max(8, min(128, count // 8 + 1))
