"""Runs plans: integers in by one pinned copy, prompts and levels as graphs, results out by one pinned copy.

    host    | pack n+1 |         | pack n+2 | answers n |
    device  | … prefill n | levels n | prefill n+1 | levels n+1 …

Everything of a batch is in one stream, so batches never see each other's buffers half written, and the host is only
waited for where it has nothing more to give.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from genrecall.engine.device.batch import Batch, BatchShape, pack
from genrecall.engine.device.beams import BeamSearch, Run, SearchShape
from genrecall.engine.device.decoder import Reading
from genrecall.engine.device.flight import Flight
from genrecall.engine.device.frontier import Frontier
from genrecall.engine.device.graphs import Graphs
from genrecall.engine.device.host_tier import HostTier
from genrecall.engine.device.padding import LONG, OFTEN, Levels, Padding, Part, Prompts
from genrecall.engine.device.scoring import Candidates, Forest, ForestShape, Scoring
from genrecall.engine.device.staging import SIZES, Staging, Write
from genrecall.engine.host.step import Seat, Sizes, StepPlan, fit
from genrecall.engine.host.tier import Move, Way
from genrecall.index.trie import Trie

_NO_CAP = 2**31 - 1
_OFTEN_COMPACT = 3
"""The same of levels without forced beams, in batches of several requests: their rows are of many sizes."""
_NAP_S = 20e-6


@dataclass(frozen=True, kw_only=True)
class Room:
    """The largest batch that fits.

    Attributes:
        requests: R.
        tokens: prompt tokens to read.
        pages: of one prompt.
        rows: beams of one level.
        slots: pages that host memory holds beside the device.
    """

    requests: int
    tokens: int
    pages: int
    rows: int
    slots: int


class Runner:
    """Buffers and graphs of one decoder.

    Args:
        search: with its decoder and catalog.
        scoring: with the same.
        room: the largest batch.
        graphs: how many graphs are kept; 0 for none.
    """

    def __init__(self, search: BeamSearch, scoring: Scoring, room: Room, *, graphs: int) -> None:
        self.search, self.scoring, self.room = search, scoring, room
        self.decoder, self.catalog = search.decoder, search.catalog
        like = self.decoder.weights.embedding
        self.device = like.device
        self._cuda = self.device.type == "cuda"
        most = BatchShape(room.requests, room.pages, search.levels, fit(room.tokens)).size
        self._batches = Staging(most, self.device)
        self._forests = Staging(ForestShape.most(room.requests, room.rows, search.levels), self.device)
        self._seen: dict[BatchShape, Batch] = {}
        self._place = torch.arange(room.requests + 1, dtype=torch.int32, device=self.device)
        self._hidden = torch.zeros(room.requests, like.shape[1], dtype=like.dtype, device=self.device)
        self._state = torch.zeros_like(self._hidden)
        self.graphs = Graphs(self.device, graphs)
        self.padding = Padding(self.graphs)
        self.tier = HostTier(self.decoder.memory, room.slots)

    @property
    def width(self) -> int:
        """E, of states."""
        return self._state.shape[1]

    def load(self, trie: Trie) -> None:
        """Make a catalog the active one, in stream order."""
        self.catalog.load(trie)

    def filter(self, masks: Sequence[np.ndarray | None]) -> list[int]:
        """The row of each seat's item mask in the next batch; -1 for None."""
        return self.catalog.filter(masks)

    def wipe_pages(self, pages: Sequence[int]) -> None:
        """Overwrite pages of prompts with zeros, between the copies that were decided before and those to come."""
        self.tier.wait()
        self.decoder.memory.wipe(pages)
        self.tier.fence()

    def move(self, moves: Sequence[tuple[str, int, int]]) -> None:
        """Start copies between the device and host memory: way, page, slot of ``host.tier.Move``."""
        self.tier.run([Move(Way(way), page, slot) for way, page, slot in moves])

    def wipe_slots(self, slots: Sequence[int]) -> None:
        """Overwrite pages in host memory with zeros."""
        self.tier.wipe(slots)

    def remains(self) -> list[int]:
        """Bytes of prompts, other than zeros, in pages and slots of each rank: 0 once every user is purged."""
        memory = self.decoder.memory
        held = (*memory.keys, *memory.values, self.tier.held)
        return [sum(int(one.view(torch.uint8).count_nonzero()) for one in held)]

    def close(self) -> None:
        """Nobody else holds anything of this engine."""

    def name(
        self, plan: StepPlan, filters: Sequence[int], seeds: Sequence[int], caps: Sequence[int | None], sizes: Sizes
    ) -> Levels:
        """The graph of a search's levels that is padded to these sizes; arguments as in ``launch``."""
        shape = SearchShape(
            rows=sizes.rows,
            widest=self.search.widest or sizes.widest,
            most_children=self.catalog.most_children,
            # Filters cost a GPU nothing that could be measured; twice the graphs would.
            filtered=self.graphs.possible or any(row >= 0 for row in filters),
            sampled=any(seed >= 0 for seed in seeds),
            capped=any(cap is not None for cap in caps),
            compact=self.search.compacts(plan.sizes.rows, len(plan.seats)),
        )
        return Levels(sizes.requests, sizes.pages, shape)

    def launch(
        self,
        plan: StepPlan,
        prompts: Sequence[Sequence[int]],
        filters: Sequence[int],
        seeds: Sequence[int],
        caps: Sequence[int | None],
        *,
        trace: bool = False,
        given_up: Callable[[], Sequence[int]] | None = None,
        idle: Callable[[], bool] | None = None,
    ) -> Flight:
        """Search. Results are, after each other: codes (M, L), scores (M,), counts (R,), broken (L, R), states (R, E).

        Args:
            plan: who is in the batch.
            prompts: of each seat.
            filters: of each seat, as ``filter`` returned them for this batch.
            seeds: of each seat; -1 for none.
            caps: most SIDs under a code, of each seat; None for any number.
            trace: keep the beams of every level.
            given_up: asked between levels where these are launched one by one; a graph of all levels runs through.
            idle: called again and again while a level is waited for, for as long as it says that there is more to do.
        """
        began, unusual = self._begin(), self.graphs.unusual
        own = plan.sizes
        key, cut = self.name(plan, filters, seeds, caps, own), dict[int, Seat]()
        sizes = self.padding.choose(own, key)
        if sizes is not own:
            key = self.name(plan, filters, seeds, caps, sizes)

        def write(out: np.ndarray) -> None:
            most = [_NO_CAP if cap is None else cap for cap in caps]
            pack(plan, sizes, prompts, filters, seeds, most, self.decoder.memory.slots, out)

        def gone(level: int) -> Sequence[int]:
            found = given_up() if given_up is not None else ()
            for place in found if key.shape.compact else ():  # otherwise their rows run on, for nothing
                cut.setdefault(place, replace(plan.seats[place], rows=plan.seats[place].rows[:level]))
            return found

        results, trail = self.search_packed(key, sizes, write, gone, idle)
        traces = [_on_host(frontier) for frontier in trail] if trace else None
        seats = tuple(cut.get(place, seat) for place, seat in enumerate(plan.seats))
        ran = replace(plan, seats=seats) if cut else plan
        return Flight(plan, sizes, results, traces, began, self.graphs.unusual == unusual, ran)

    def launch_scoring(self, plan: StepPlan, prompts: Sequence[Sequence[int]], wanted: Sequence[Candidates]) -> Flight:
        """Score. Results are, after each other: scores float32 (L, n padded) seen as integers, states (R, E).

        Args:
            plan, prompts: as in ``launch``.
            wanted: candidates of each seat.
        """
        began, unusual = self._begin(), self.graphs.unusual
        sizes, nothing = self.padding.reading(plan.sizes), [-1] * len(prompts)
        forest = Forest.of(wanted, self.catalog.trie, sizes.requests)

        def write(out: np.ndarray) -> None:
            pack(plan, sizes, prompts, nothing, nothing, nothing, self.decoder.memory.slots, out)

        found = self.score_packed(forest.shape, sizes, write, forest.write)
        return Flight(plan, sizes, found, None, began, self.graphs.unusual == unusual, plan)

    def search_packed(
        self,
        key: Levels,
        sizes: Sizes,
        write: Write,
        gone: Callable[[int], Sequence[int]] = lambda level: (),
        idle: Callable[[], bool] | None = None,
    ) -> tuple[torch.Tensor, list[Frontier]]:
        """Results of ``launch`` on the device, and the beams of every level.

        Args:
            key: names the graph of the levels.
            sizes: what the batch is padded to.
            write: the batch, as ``pack`` does.
            gone: of the places in the batch, those that need no more of this level.
            idle: as in ``launch``.
        """
        batch, shape = self._send(sizes, write), key.shape
        reading = self._read(batch, sizes)
        self._reserve(sizes)
        between = None if self._cuda and not shape.compact else gone

        def levels(run: Run | None = None) -> tuple[torch.Tensor, list[Frontier]]:
            trail = self.search.search(batch, reading, shape, between, run, running if shape.compact else None)
            last, broken = trail[-1], torch.stack([frontier.broken for frontier in trail])
            parts = (last.codes.flatten(), last.score.view(torch.int32), last.ranges.count, broken.flatten())
            return torch.cat((*parts, _as_integers(reading.state))), trail

        def running(level: int, must: torch.Tensor) -> int:
            return self.padding.running(key, level, self._count_of(idle, must))

        if not shape.compact:
            return self.graphs.run(key, levels)
        # The host reads how many rows remain: no graph holds more than a level.
        after = 1 if sizes.requests == 1 else _OFTEN_COMPACT
        return levels(lambda level, rows, step: self.graphs.run(Part(key, level, rows), step, after=after))

    def score_packed(self, shape: ForestShape, sizes: Sizes, write: Write, write_forest: Write) -> torch.Tensor:
        """Results of ``launch_scoring`` on the device, of a batch and its candidates of this shape."""
        batch = self._send(sizes, write)
        self._reserve(sizes)
        sent = self._forests.send(shape.size, write_forest)
        reading = self._read(batch, sizes)

        def levels() -> torch.Tensor:
            found = self.scoring.score(shape, sent, reading)
            return torch.cat((_as_integers(found), _as_integers(reading.state)))

        # One pass of many rows, of which live traffic brings ever new numbers: as with long prompts.
        key = ("scores", sizes.requests, sizes.pages, shape, self.catalog.most_children)
        return self.graphs.run(key, levels, after=OFTEN)

    def wipe(self) -> None:
        """Overwrite what earlier batches left behind: tokens, hidden states, keys and values of beams, SIDs, scores."""
        self._hidden.zero_()
        self._state.zero_()
        self.decoder.wipe()
        self.search.wipe()
        for found in self.graphs.results():
            if isinstance(found, torch.Tensor):
                found.zero_()
            elif isinstance(found, tuple):
                results, trail = found
                results.zero_()
                for frontier in trail:
                    frontier.wipe()
        self._batches.wipe()
        self._forests.wipe()

    def _count_of(self, idle: Callable[[], bool] | None, count: torch.Tensor) -> int:
        """A number from the device; what runs before it may be answered meanwhile."""
        if self._cuda and idle is not None:
            ended = torch.cuda.Event()
            ended.record()
            while idle() and not ended.query():
                time.sleep(_NAP_S)
        return int(count)

    def _reserve(self, sizes: Sizes) -> None:
        assert not self._cuda or sizes.run <= self.decoder.suffix.rows, "graphs hold the address of the suffix block"
        self.decoder.suffix.reserve(sizes.run)

    def _begin(self) -> torch.cuda.Event | float:
        self.tier.wait()
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _send(self, sizes: Sizes, write: Write) -> Batch:
        """A batch on its way to the device; views of its shape are made once."""
        shape = BatchShape.of(sizes)
        batch = self._seen.get(shape)
        if batch is None:
            if len(self._seen) == SIZES:
                self._seen.clear()
            batch = self._seen[shape] = Batch.view(self._batches.flat, shape, self._place)
        self._batches.send(shape.size, write)
        return batch

    def _read(self, batch: Batch, sizes: Sizes) -> Reading:
        """The prompts; hidden states at addresses that do not depend on how many tokens were read."""

        def read() -> Reading:
            reading = self.decoder.read(batch.tokens, batch.prompts)
            hidden, state = self._hidden[: sizes.requests], self._state[: sizes.requests]
            hidden.copy_(reading.hidden)
            state.copy_(reading.state)
            return Reading(hidden=hidden, state=state, table=reading.table, length=reading.length)

        # What computes for longer than it takes to launch needs no graph, and sums of long prompts come in too many
        # sizes: to capture each stops the device again and again.
        after = 1 if sizes.tokens < LONG else OFTEN
        return self.graphs.run(Prompts(sizes.requests, sizes.pages, sizes.tokens), read, after=after)


def _as_integers(values: torch.Tensor) -> torch.Tensor:
    """float32 bits, int32, flat."""
    return values.float().flatten().view(torch.int32)


def _on_host(frontier: Frontier) -> list[np.ndarray]:
    """Owner's ranges, node, score, codes and parent, as a trace is made of them."""
    ranges = frontier.ranges
    tensors = (ranges.begin, ranges.count, frontier.node, frontier.score, frontier.codes, frontier.parent)
    return [tensor.cpu().numpy() for tensor in tensors]
