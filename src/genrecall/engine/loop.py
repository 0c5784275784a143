"""Jobs in, outcomes out: the scheduler decides, the runner does, two batches are on their way at once.

    submit → waiting → plan → flight → outcome

A batch is planned as late as the device allows, so that it takes along whatever has arrived by then; where a whole
batch waits, at once. Cancelling takes effect before a batch is planned and, where levels are launched one by one (on
the CPU, and where forced levels are skipped), before the next level; a graph of all levels runs to its end. Every job
has exactly one outcome.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from genrecall.engine.answers import Found, not_finite, trace
from genrecall.engine.device.flight import Flight
from genrecall.engine.device.runner import Runner
from genrecall.engine.device.scoring import Candidates
from genrecall.engine.host.request import Answer, Refused, Request, Scores
from genrecall.engine.host.scheduler import Dropped, Job, Scheduler
from genrecall.engine.host.step import Kind, StepPlan
from genrecall.errors import CapacityError, GenrecallError
from genrecall.index.trie import Trie

Outcome = Answer | np.ndarray | Scores | GenrecallError | Refused
_AHEAD_S = 0.004
"""How long before the device runs dry the next batch is planned: packing, launching, and some slack."""
_NAP_S = 5e-5
_AWAKE_S = 3e-4
"""How long before and after the only batch should end its results are waited for awake, for naps last twice as long as
asked. With more to do, whoever brings new requests wants the processor, too.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A job with what only device and answers need.

    Attributes:
        request: prompt, filter, trace.
        trie: the catalog when it was asked.
        asked: SIDs wanted.
        rows: beams after each level.
        wanted: to be scored; None for a search.
        deliver: is told the outcome, on the thread that advances the loop.
    """

    request: Request
    trie: Trie
    asked: int
    rows: tuple[int, ...]
    wanted: Candidates | None
    deliver: Callable[[Outcome], None]


class Loop:
    """Owns all jobs; not safe for threads: its owner holds a lock.

    Args:
        scheduler: decides.
        runner: does.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler, self.runner = scheduler, runner
        self._tasks: dict[int, Task] = {}
        self._numbers = itertools.count()
        self._flights: deque[Flight] = deque()
        self._most_flights = 2 if runner.device.type == "cuda" else 1
        self._busy_until = 0.0
        self.meanwhile: Callable[[], None] = lambda: None
        """Called between the levels of a batch: whoever owns the loop may take in what was cancelled by then."""
        self.moved: Callable[[], None] = lambda: None
        """Called when other requests are being computed than before."""
        self.launched: Callable[[Sequence[Request]], None] = lambda requests: None
        """Told of the requests of every batch that is about to be launched."""
        self.landed: Callable[[int, float], None] = lambda rows, seconds: None
        """Told of every batch that was done: its beams, and how long it took, or would have had nobody given up."""
        self._launching = False
        """A batch is between its levels: it is no flight yet, and its scratch memory is in use."""
        self._unclean, self._unended = False, 0
        """Whether scratch memory is to be wiped of a purged user, and how many batches must end before."""

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._tasks

    def submit(self, task: Task, *, catalog: int) -> int:
        """Queue a job; returns its number.

        Raises:
            CapacityError: it could never run.
        """
        number, request = next(self._numbers), task.request
        least, timeout = request.narrowest, request.timeout_s
        job = Job(
            number=number,
            kind=Kind.SEARCH if task.wanted is None else Kind.SCORE,
            catalog=catalog,
            tokens=request.tokens,
            user=request.user,
            rows=task.rows,
            narrowest=task.rows if least is None else tuple(min(rows, least) for rows in task.rows),
            item_filter=None if request.allowed is None or task.wanted is not None else id(request.allowed),
            deadline_s=None if timeout is None else self.scheduler.clock() + timeout,
        )
        self.scheduler.submit(job)
        self._tasks[number] = task
        self._move()
        return number

    def cancel(self, number: int) -> bool:
        """See ``Scheduler.cancel``; the outcome is told either way."""
        found = self.scheduler.cancel(number)
        self._tell_dropped()
        return found

    def purge(self, user: str) -> None:
        """Forget a user; what running batches read and write is wiped when these end."""
        self.scheduler.purge(user)
        self._unclean, self._unended = True, len(self._flights) + self._launching
        self._wipe()

    def advance(self) -> None:
        """Launch what can be launched, end what has ended. Returns soon, having slept a moment if there was nothing."""
        launched = self._launch() if len(self._flights) < self._most_flights and self._due() else False
        self._tell_dropped()
        if self._flights and (self._flights[0].done or (launched and self._most_flights == 1)):
            self._land(self._flights.popleft())
        elif self._flights and not launched:
            alone = len(self._flights) == 1 and not self.scheduler.waiting
            ending = abs(self._busy_until - time.monotonic()) < _AWAKE_S
            time.sleep(0 if alone and ending else _NAP_S)

    @property
    def tags(self) -> list[int]:
        """Of the requests that are being computed."""
        seats = (seat for plan in self.scheduler.running for seat in plan.seats)
        tags = (self._tasks[seat.job].request.tag for seat in seats)
        return [tag for tag in tags if tag is not None]

    @property
    def busy_s(self) -> float:
        """Until the device should have done what it was given."""
        return max(self._busy_until - time.monotonic(), 0.0)

    def fail(self, error: GenrecallError) -> None:
        """Tell every job of an error that nothing survives."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.deliver(error)

    def _due(self) -> bool:
        if not self._flights or self.scheduler.full or not self.scheduler.cost.ready:
            return True
        return self.busy_s < _AHEAD_S

    def _launch(self) -> bool:
        plan = self.scheduler.plan(self.busy_s)
        self._move()
        if plan is None:
            return False
        self._busy_until = max(time.monotonic(), self._busy_until) + self.scheduler.cost.seconds(plan.load)
        tasks = [self._tasks[seat.job] for seat in plan.seats]
        self.launched([task.request for task in tasks])
        if tasks[0].trie is not self.runner.catalog.trie:
            self.runner.load(tasks[0].trie)
        prompts = [task.request.tokens for task in tasks]
        self.moved()
        try:
            if plan.kind is Kind.SEARCH:
                filters = self.runner.filter([task.request.allowed for task in tasks])
                traced = any(task.request.trace for task in tasks)
                seeds = [-1 if task.request.seed is None else task.request.seed for task in tasks]
                caps, gone = [task.request.most_a_code for task in tasks], partial(self._given_up, plan)
                self._launching = True
                flight = self.runner.launch(
                    plan, prompts, filters, seeds, caps, trace=traced, given_up=gone, idle=self._land_ended
                )
            else:
                flight = self.runner.launch_scoring(plan, prompts, [task.wanted for task in tasks if task.wanted])
        except torch.OutOfMemoryError as error:
            self._launching = False
            self._lose(plan, tasks, error)
            return True
        self._launching = False
        self._flights.append(flight)
        if self._unclean:
            self._wipe()
        return True

    def _foresee(self) -> None:
        """What runs still has begun only now: else errors of forecasts would add up for as long as there is work."""
        running = sum(self.scheduler.cost.seconds(plan.load) for plan in self.scheduler.running)
        self._busy_until = time.monotonic() + running

    def _land_ended(self) -> bool:
        """Answer what has ended while a launch waits for its levels; whether something else runs before it."""
        while self._flights and self._flights[0].done:
            self._land(self._flights.popleft())
        return bool(self._flights)

    def _given_up(self, plan: StepPlan) -> Sequence[int]:
        self.meanwhile()
        found = self.scheduler.given_up(plan)
        self.moved()
        return found

    def _land(self, flight: Flight) -> None:
        results, seconds = flight.wait()
        plan = flight.plan
        wanted = self.scheduler.finish(plan, seconds, flight.ran.load)
        self._foresee()
        tasks = [self._tasks[seat.job] for seat in plan.seats]
        if plan.kind is Kind.SEARCH:
            outcomes = self._searched(flight, results, tasks)
        else:
            outcomes = _scored(results, tasks, flight.sizes.requests, self.runner.width)
        for seat, outcome, want in zip(plan.seats, outcomes, wanted, strict=True):
            if want:
                self._tasks.pop(seat.job).deliver(outcome)
        self._tell_dropped()
        if seconds is not None and (whole_s := self._whole_s(flight, seconds)):
            self.landed(sum(max(seat.rows) for seat in plan.seats), whole_s)
        self.moved()
        self._ended()

    def _whole_s(self, flight: Flight, seconds: float) -> float:
        """What a batch would have taken had nobody given up; 0 where that is not known yet."""
        if flight.ran is flight.plan:
            return seconds
        ran_s = self.scheduler.cost.seconds(flight.ran.load)
        return seconds * self.scheduler.cost.seconds(flight.plan.load) / ran_s if ran_s else 0.0

    def _searched(self, flight: Flight, results: np.ndarray, tasks: Sequence[Task]) -> Sequence[Outcome]:
        found, plan = Found.of(results, flight.sizes), flight.plan
        answers = found.answers(plan, [task.asked for task in tasks], [task.rows for task in tasks])
        for seat, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
            if task.request.state and isinstance(answer, Answer):
                answers[seat] = replace(answer, state=found.state[seat].copy())
        if flight.traces is None:
            return answers
        traced: list[Outcome] = []
        for seat, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
            if task.request.trace and isinstance(answer, Answer):
                levels = trace(flight.traces, seat, task.trie)
                answer = replace(answer, levels=levels)
            traced.append(answer)
        return traced

    def _lose(self, plan: StepPlan, tasks: Sequence[Task], error: torch.OutOfMemoryError) -> None:
        """A batch met the end of the device's memory, which someone else must have taken: it alone is lost."""
        self.scheduler.cache.clear()
        refusal = CapacityError(
            "the device has no memory left for this batch",
            seen=str(error).splitlines()[0],
            allowed="the memory that was free when the engine was opened",
            fix="end other programs on the device, or lower kv_tokens and max_rows",
        )
        wanted = self.scheduler.finish(plan)
        self._foresee()
        for seat, task, want in zip(plan.seats, tasks, wanted, strict=True):
            if want:
                del self._tasks[seat.job]
                task.deliver(refusal)
        self._ended()

    def _tell_dropped(self) -> None:
        for number, why in self.scheduler.dropped():
            self._tasks.pop(number).deliver(Refused(reason="cancelled" if why is Dropped.CANCELLED else "late"))

    def _move(self) -> None:
        moves = self.scheduler.cache.slots.moves()
        if moves:
            self.runner.move([(move.way.value, move.page, move.slot) for move in moves])

    def _ended(self) -> None:
        self._unended = max(self._unended - 1, 0)
        self._wipe()

    def _wipe(self) -> None:
        """Wipe what nobody uses any more; scratch memory once all batches have ended that may hold a purged user."""
        pages, slots = self.scheduler.cache.wipeable(), self.scheduler.cache.slots.wipeable()
        if slots:
            self.runner.wipe_slots(slots)
        if pages:
            self.runner.wipe_pages(pages)
        if self._unclean and self._unended == 0 and not self._launching:
            self._unclean = False
            self.runner.wipe()


def _scored(results: np.ndarray, tasks: Sequence[Task], places: int, width: int) -> list[Outcome]:
    counts = [len(task.wanted.codes) for task in tasks if task.wanted is not None]
    scores, states = np.split(results.view(np.float32), [-places * width])
    by_level, by_seat = scores.reshape(tasks[0].trie.space.levels, -1)[:, : sum(counts)], states.reshape(places, width)
    outcomes: list[Outcome] = []
    for seat, part in enumerate(np.split(by_level, np.cumsum(counts)[:-1], axis=1)):
        broken = np.flatnonzero(~np.isfinite(part).all(axis=1))
        total = part.sum(axis=0, dtype=np.float32)
        scored = Scores(scores=total, state=by_seat[seat].copy()) if tasks[seat].request.state else total
        outcomes.append(not_finite(int(broken[0])) if len(broken) else scored)
    return outcomes
