"""Runs plans: integers in by one pinned copy, prompts and levels as graphs, results out by one pinned copy.

    host    | pack n+1 |         | pack n+2 | answers n |
    device  | … prefill n | levels n | prefill n+1 | levels n+1 …

Everything of a batch is in one stream, so batches never see each other's buffers half written, and the host is only
waited for where it has nothing more to give.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genrecall.engine.device.batch import Batch, BatchShape, pack
from genrecall.engine.device.beams import BeamSearch, Frontier, SearchShape
from genrecall.engine.device.decoder import Reading
from genrecall.engine.device.graphs import Graphs
from genrecall.engine.device.scoring import Candidates, Scoring
from genrecall.engine.host.step import StepPlan, fit
from genrecall.index.trie import Trie

_STAGES = 3
"""Batches whose integers may be on their way at once: two in flight and one being packed."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """The largest batch that fits.

    Attributes:
        requests: R.
        tokens: prompt tokens to read.
        pages: of one prompt.
    """

    requests: int
    tokens: int
    pages: int


class Flight:
    """A batch on its way.

    Args:
        plan: what runs.
        results: int32 on the device.
        staged: pinned memory of the same size where the device is not the host's.
        began: event before the batch.
    """

    def __init__(
        self,
        plan: StepPlan,
        results: torch.Tensor,
        traces: list[list[np.ndarray]] | None,
        began: torch.cuda.Event | float,
    ) -> None:
        self.plan, self.traces, self._began = plan, traces, began
        self._host, self._ended = results, None
        if not isinstance(began, float):
            self._host = torch.empty(results.shape, dtype=results.dtype, pin_memory=True)
            self._host.copy_(results, non_blocking=True)
            self._ended = torch.cuda.Event(enable_timing=True)
            self._ended.record()
        self._seconds = time.perf_counter() - began if isinstance(began, float) else 0.0

    @property
    def done(self) -> bool:
        """Whether ``wait`` would return at once."""
        return self._ended is None or self._ended.query()

    def wait(self) -> tuple[np.ndarray, float]:
        """Results int32, and the seconds that the batch took on its device."""
        if self._ended is not None and not isinstance(self._began, float):
            self._ended.synchronize()
            self._seconds = self._began.elapsed_time(self._ended) / 1e3
        return self._host.numpy(), self._seconds


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
        self._flat = torch.zeros(most, dtype=torch.int32, device=self.device)
        self._staged = [torch.zeros(most, dtype=torch.int32, pin_memory=True) for _ in range(_STAGES * self._cuda)]
        self._sent: list[torch.cuda.Event | None] = [None] * len(self._staged)
        self._place = torch.arange(room.requests + 1, dtype=torch.int32, device=self.device)
        self._hidden = torch.zeros(room.requests, like.shape[1], dtype=like.dtype, device=self.device)
        self.graphs = Graphs(self.device, graphs)

    def load(self, trie: Trie) -> None:
        """Make a catalog the active one, in stream order."""
        self.catalog.load(trie)

    def filter(self, masks: Sequence[np.ndarray | None]) -> list[int]:
        """The row of each seat's item mask in the next batch; -1 for None."""
        return self.catalog.filter(masks)

    def wipe_pages(self, pages: Sequence[int]) -> None:
        """Overwrite pages of prompts with zeros."""
        self.decoder.memory.wipe(pages)

    def close(self) -> None:
        """Nobody else holds anything of this engine."""

    def launch(
        self,
        plan: StepPlan,
        prompts: Sequence[Sequence[int]],
        filters: Sequence[int],
        seeds: Sequence[int],
        *,
        trace: bool = False,
    ) -> Flight:
        """Search. Results are, after each other: codes (M, L), scores (M,), counts (R,), broken (L, R).

        Args:
            plan: who is in the batch.
            prompts: of each seat.
            filters: of each seat, as ``filter`` returned them for this batch.
            seeds: of each seat; -1 for none.
            trace: keep the beams of every level.
        """
        began = self._begin()
        batch, shape = self._send(plan, prompts, filters, seeds)
        reading = self._read(batch, shape)
        widest = max(max(seat.rows) for seat in plan.seats)
        sizes = SearchShape(
            rows=plan.rows,
            widest=1 << (widest - 1).bit_length(),
            most_children=self.catalog.most_children,
            filtered=any(row >= 0 for row in filters),
            sampled=any(seed >= 0 for seed in seeds),
        )
        self.decoder.suffix.reserve(sum(plan.rows[:-1]))

        def levels() -> tuple[torch.Tensor, list[Frontier]]:
            trail = self.search.search(batch, reading, sizes)
            last, broken = trail[-1], torch.stack([frontier.broken for frontier in trail])
            parts = (last.codes.flatten(), last.score.view(torch.int32), last.ranges.count, broken.flatten())
            return torch.cat(parts), trail

        key = ("levels", shape.requests, shape.pages, sizes)
        # Where forced beams are skipped, the host reads how many rows remain: no graph holds that.
        results, trail = levels() if self.search.skip_forced else self.graphs.run(key, levels)
        traces = [_on_host(frontier) for frontier in trail] if trace else None
        return Flight(plan, results, traces, began)

    def launch_scoring(self, plan: StepPlan, prompts: Sequence[Sequence[int]], wanted: Sequence[Candidates]) -> Flight:
        """Score. Results are float32 (L, n) seen as integers."""
        began = self._begin()
        nothing = [-1] * len(prompts)
        batch, shape = self._send(plan, prompts, nothing, nothing)
        self.decoder.suffix.reserve(sum(plan.rows[:-1]))
        found = self.scoring.score(batch, self._read(batch, shape), wanted)
        return Flight(plan, found.flatten().view(torch.int32), None, began)

    def _begin(self) -> torch.cuda.Event | float:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _send(
        self, plan: StepPlan, prompts: Sequence[Sequence[int]], filters: Sequence[int], seeds: Sequence[int]
    ) -> tuple[Batch, BatchShape]:
        shape = BatchShape.of(plan)
        page_tokens = self.decoder.memory.page_tokens
        if not self._cuda:
            pack(plan, shape, prompts, filters, seeds, page_tokens, self._flat[: shape.size].numpy())
        else:
            staged, sent = self._staged[0], self._sent[0]
            if sent is not None:
                sent.synchronize()
            pack(plan, shape, prompts, filters, seeds, page_tokens, staged[: shape.size].numpy())
            self._flat[: shape.size].copy_(staged[: shape.size], non_blocking=True)
            sent = torch.cuda.Event()
            sent.record()
            self._staged = [*self._staged[1:], staged]
            self._sent = [*self._sent[1:], sent]
        return Batch.view(self._flat, shape, self._place), shape

    def _read(self, batch: Batch, shape: BatchShape) -> Reading:
        """The prompts; hidden states at an address that does not depend on how many tokens were read."""

        def read() -> Reading:
            reading = self.decoder.read(batch.tokens, batch.prompts)
            hidden = self._hidden[: shape.requests]
            hidden.copy_(reading.hidden)
            return Reading(hidden=hidden, table=reading.table, length=reading.length)

        return self.graphs.run(("prompts", shape), read)


def _on_host(frontier: Frontier) -> list[np.ndarray]:
    """Owner's ranges, node, score, codes and parent, as a trace is made of them."""
    ranges = frontier.ranges
    tensors = (ranges.begin, ranges.count, frontier.node, frontier.score, frontier.codes, frontier.parent)
    return [tensor.cpu().numpy() for tensor in tensors]
