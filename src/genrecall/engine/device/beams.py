"""Constrained beam search over a batch of requests, level by level, in static shapes.

``score(s) = Σ_l log p(s_l | prompt, s_<l)``; beams are extended by valid codes only (De Cao et al. 2021, arXiv
2010.00904). We deviate: the rows of a level are laid out by the host before it is known how many survive, so that no
shape depends on the device and all levels fit one CUDA graph; the frontier is kept in SID order, so that ties need no
rule of their own; and under trie normalisation beams whose subtree holds one SID can leave the forward pass, because
everything after them has probability 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from genrecall.engine.config import Normalise
from genrecall.engine.device.batch import Batch, request_of
from genrecall.engine.device.catalog import DeviceCatalog
from genrecall.engine.device.decoder import BeamRows, Reading
from genrecall.engine.device.diversity import drop_removed
from genrecall.engine.device.frontier import Frontier, FrontierMemory
from genrecall.engine.device.open import SidDecoder
from genrecall.engine.device.sampling import Caps, draw
from genrecall.index.trie import ROOT
from genrecall.kernels.rows import Compaction, compact_rows
from genrecall.kernels.trie_select import Beams, trie_select


@dataclass(frozen=True)
class SearchShape:
    """Static sizes of the levels of a batch.

    Attributes:
        rows: M after each level.
        widest: the most rows of one request after any level, rounded up to a power of two.
        most_children: of a node before each level.
        filtered: whether any request has an item filter.
        sampled: whether any request wants a sample.
        capped: whether any request has a most number of beams under one first code.
        compact: whether beams whose rest is forced leave the forward passes.
    """

    rows: tuple[int, ...]
    widest: int
    most_children: tuple[int, ...]
    filtered: bool
    sampled: bool
    capped: bool
    compact: bool


Run = Callable[[int, int, Callable[[], Frontier]], Frontier]
"""Runs a level of static shape, of which so many rows pass the decoder: as it is, or as a graph."""


class BeamSearch:
    """Search with one decoder and one catalog.

    Args:
        decoder: reads and writes.
        catalog: the trie.
        sid_tokens: per level int32 (C,).
        normalise: see ``EngineConfig``.
        rows: the most of a level, and of requests.
        widest: what every batch counts as its widest beam; None: its own.
        compact_from: rows of all levels of a batch from which on resolved beams are left out of its forward passes,
            which costs one read of the device a level, and a graph for each number of rows that must run; a single
            request pays it whatever its rows, since nothing waits behind it. None: never.
    """

    def __init__(
        self,
        decoder: SidDecoder,
        catalog: DeviceCatalog,
        sid_tokens: Sequence[torch.Tensor],
        normalise: Normalise,
        compact_from: int | None,
        *,
        rows: int,
        widest: int | None = None,
    ) -> None:
        self.decoder, self.catalog, self.sid_tokens, self.normalise = decoder, catalog, sid_tokens, normalise
        self.compact_from, self.widest = compact_from if normalise == "trie" else None, widest
        # Constants: made once, they are no launches of every level.
        self._row = torch.arange(rows * len(sid_tokens), dtype=torch.int32, device=catalog.device)
        self._root = torch.full((rows,), ROOT, dtype=torch.int32, device=catalog.device)
        self._nothing = torch.zeros(rows, dtype=torch.float32, device=catalog.device)
        graphs = self.compact_from is not None and catalog.device.type == "cuda"
        self._memory = FrontierMemory(self.levels, rows, rows, catalog.device) if graphs else None

    @property
    def levels(self) -> int:
        """L."""
        return len(self.sid_tokens)

    def compacts(self, rows: Sequence[int], requests: int) -> bool:
        """Whether a batch of so many rows by level leaves resolved beams out."""
        return self.compact_from is not None and (requests == 1 or sum(rows) >= self.compact_from)

    def wipe(self) -> None:
        """Overwrite what levels left behind."""
        if self._memory is not None:
            self._memory.wipe()

    def search(
        self,
        batch: Batch,
        reading: Reading,
        shape: SearchShape,
        given_up: Callable[[int], Sequence[int]] | None = None,
        run: Run | None = None,
        running: Callable[[int, torch.Tensor], int] | None = None,
    ) -> list[Frontier]:
        """The surviving beams after each level. Unless it is to be compact, nothing here waits for the device.

        Args:
            batch: the plan.
            reading: of its prompts.
            shape: static sizes.
            given_up: asked before every step of the decoder, told its level; names requests that lose all beams there.
            run: runs each level; None: as it is.
            running: waits for the number of rows that must pass the decoder at a level, and pads it.
        """
        trail: list[Frontier] = []
        for level in range(self.levels):
            before, rows = trail[-1] if trail else None, -1
            if before is not None:
                for place in given_up(level) if given_up is not None else ():
                    before.ranges.count[place] = 0
                if running is not None:
                    rows = running(level, self._compact(before).ranges.begin[-1])  # the one wait for the device
            step = partial(self._level, batch, reading, shape, level, before, rows)
            trail.append(step() if run is None else run(level, rows, step))
        return trail

    def _level(
        self, batch: Batch, reading: Reading, shape: SearchShape, level: int, before: Frontier | None, running: int
    ) -> Frontier:
        """Extend the beams of the level before by a code; ``running`` of them, rounded up, must pass the decoder."""
        if before is None:
            places = len(reading.hidden)
            logits = self.decoder.level_logits(reading.hidden, 0)
            node, score = self._root[:places], self._nothing[:places]
            beams, key = Beams(node=node, score=score, logits_row=self._row[:places], ranges=batch.root), score
            codes = ancestry = node.new_empty(places, 0)
        else:
            written = sum(shape.rows[: level - 1])
            logits, logits_row, ancestry = self._forward(before, level, reading, written, shape, running)
            beams = Beams(node=before.node, score=before.score, logits_row=logits_row, ranges=before.ranges)
            key, codes = before.key, before.codes
        children, drawn = self.catalog.children(level), None
        node_filter = self.catalog.node_filter(batch.filters) if shape.filtered else None
        ranked, by = beams, logits
        capped = shape.capped and level > 0  # a first code has one beam at first
        if shape.sampled or capped:
            caps = Caps(first_code=codes[:, 0], most=batch.caps, node_filter=node_filter) if capped else None
            drawn = draw(logits, beams, children, key, batch.seeds, over_children=self.normalise == "trie", caps=caps)
            ranked, by = drawn.beams, drawn.logits
        best = trie_select(
            by, ranked, children, batch.widths[level], batch.begins[level], rows=shape.rows[level],
            most_beams=1 if before is None else shape.widest, normalise="trie" if drawn else self.normalise,
            node_filter=node_filter,
        )  # fmt: skip
        if capped:
            best = drop_removed(best)
        found = Frontier(
            ranges=best.ranges,
            node=best.node,
            codes=torch.cat([codes[best.parent], best.code[:, None]], dim=1),
            score=drawn.score_of(best, beams.score) if drawn else best.score,
            key=best.score,
            ancestry=ancestry[best.parent],
            parent=best.parent,
            broken=best.broken,
        )
        return self._memory.hold(level, found) if shape.compact and self._memory is not None else found

    def _compact(self, frontier: Frontier) -> Compaction:
        """The beams that must pass the decoder."""
        return compact_rows(self.catalog.branching[frontier.node.long()], frontier.ranges)

    def _forward(
        self, frontier: Frontier, level: int, reading: Reading, written: int, shape: SearchShape, running: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run beams. Returns logits (B, C), the logits row of each beam or -1, and its ancestry (M, level)."""
        rows = len(frontier.node)
        row, own = self._row[:rows], self._row[written : written + rows]
        code, ancestry, ranges, logits_row = frontier.codes[:, -1], frontier.ancestry, frontier.ranges, row
        if running == 0:
            logits = frontier.score.new_empty(0, len(self.sid_tokens[level]))
            return logits, torch.full_like(row, -1), torch.cat([ancestry, row[:, None]], dim=1)
        if shape.compact:
            compact = self._compact(frontier)
            rows = running
            source = compact.source[:rows]
            code, ranges, logits_row = code[source], compact.ranges, compact.place
            ran = torch.cat([ancestry[source], row[:rows, None] + written], dim=1)
            own = (logits_row + written).clamp_(min=0)
        ancestry = torch.cat([ancestry, own[:, None]], dim=1)
        beams = BeamRows(
            ranges=ranges,
            request=request_of(ranges.begin, rows),
            ancestry=ran if shape.compact else ancestry,
            table=reading.table,
            length=reading.length,
            widest=shape.widest,
        )
        hidden = self.decoder.step(self.sid_tokens[level - 1][code], beams)
        return self.decoder.level_logits(hidden, level), logits_row, ancestry
