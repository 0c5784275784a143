"""The engine: prompts in, SIDs out.

``answer = the W valid SIDs with the largest Σ_l log p(s_l | prompt, s_<l)`` that beam search finds (exactly the W best
where W covers every prefix of every level). Defined by ``engine.reference``; this one batches requests, reads each
prompt once, keeps what users' prompts have in common, and lays every batch out in static shapes.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from genrecall.engine.compiled import use_cache
from genrecall.engine.config import EngineConfig
from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.padding import any_sizes
from genrecall.engine.device.scoring import Candidates, held
from genrecall.engine.device.shards import Checkpoint
from genrecall.engine.host.request import Answer, Refused, Request, Scores, Sid
from genrecall.engine.host.step import Kind, Seat, StepPlan
from genrecall.engine.lock import Lock, current
from genrecall.engine.loop import Outcome, Task
from genrecall.engine.setup import assemble
from genrecall.errors import ConfigError, GenrecallError
from genrecall.hardware import pick_device
from genrecall.index.trie import ROOT, Trie
from genrecall.model.trunk import ItemTrunk
from genrecall.telemetry import log

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_SHORT = 16
"""Tokens of prompts that sizes are captured with: whatever the size, they fit."""
_NO_JOB = -1
"""The number of a request that was answered at once: an empty catalog has nothing to search."""


class Engine:
    """Constrained generation with one model and one catalog at a time. Weights are copied when it is made.

    Safe for threads: whoever waits for an answer drives the engine on (see ``asynchronous`` for a thread that does).

    Args:
        model: a Llama, Qwen2 or Qwen3 causal language model of transformers, adapters merged, a directory of one
            (``Checkpoint``: every rank reads its own part of the files), or an item trunk.
        trie: the active catalog.
        sid_tokens: for each of L levels, the int64 (C,) token ids of its codes (in a trunk: of its depth decoder).
        config: settings.

    Raises:
        ConfigError: a model that the decoder would not compute rightly, or tokens that do not fit the trie.
        CapacityError: a catalog or settings that do not fit into memory.
    """

    def __init__(
        self,
        model: PreTrainedModel | ItemTrunk | Checkpoint,
        trie: Trie,
        sid_tokens: Sequence[np.ndarray],
        config: EngineConfig | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        _require_tokens(sid_tokens, trie, _written_rows(model))
        self.trie, self._version = trie, 0
        self.sid_tokens = [np.asarray(ids) for ids in sid_tokens]
        self._device = pick_device(self.config.device)
        self._compiled = use_cache(self._device)
        with torch.no_grad(), current(self._device):
            self.loop = assemble(model, trie, sid_tokens, self.config)
        self._search = self.loop.runner.search
        self.device, self.dtype = self.loop.runner.device, self._search.decoder.weights.embedding.dtype
        self.lock = Lock(self.device)

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of the requests; any number of them, of mixed lengths, widths and filters.

        Raises:
            ConfigError, CapacityError: a request that cannot be answered; then none is.
            DataError: the model computes values that are not finite.
            TimeoutError: a request's timeout could not be kept.
        """
        answers: list[Outcome | None] = [None] * len(requests)
        self._run([partial(self.submit, request) for request in requests], answers)
        return [answer_of(outcome) for outcome in answers]

    def score(self, requests: Sequence[Request], sids: Sequence[Sequence[Sid] | np.ndarray]) -> list[np.ndarray]:
        """Scores of given SIDs, the same sums that ``generate`` ranks by; filters and widths play no part.

        Args:
            requests: R prompts.
            sids: for each request any number of SIDs, of the catalog or not; integer arrays (n, L) are quickest.

        Returns:
            For each request float32 scores in its SIDs' order; -inf for a SID that the trie does not hold.
        """
        return [found.scores for found in self._score(requests, sids)]

    def read(self, requests: Sequence[Request], sids: Sequence[Sequence[Sid] | np.ndarray]) -> list[Scores]:
        """``score``, and the model's state after each prompt, from one reading of it."""
        found = self._score([replace(request, state=True) for request in requests], [self.beside(own) for own in sids])
        return [replace(one, scores=one.scores[:-1]) for one in found]

    def beside(self, sids: Sequence[Sid] | np.ndarray) -> np.ndarray:
        """int64 (n+1, L): these SIDs and one of the catalog, so that a prompt is read even if none of them is held."""
        some = _some_sid(self.trie)
        return np.concatenate([_codes(sids, len(some)), [some]])

    def _score(self, requests: Sequence[Request], sids: Sequence[Sequence[Sid] | np.ndarray]) -> list[Scores]:
        assert len(sids) == len(requests), "one list of SIDs per request"
        codes = [_codes(rows, self.trie.space.levels) for rows in sids]
        cuts = np.cumsum([len(rows) for rows in codes])[:-1]
        paths = np.split(self.trie.paths(np.concatenate(codes)), cuts) if codes else []
        scores = [np.full(len(rows), -np.inf, dtype=np.float32) for rows in codes]
        states = [np.empty(0, np.float32)] * len(codes)
        # A request with more SIDs than a pass has rows is read once for each part of them.
        parts = [
            (index, part)
            for index, path in enumerate(paths)
            for part in _split(held(path), self.loop.scheduler.limits.rows)
        ]
        found: list[Outcome | None] = [None] * len(parts)
        submits = [partial(self._submit_scoring, requests[i], codes[i][part], paths[i][part]) for i, part in parts]
        self._run(submits, found)
        for (index, part), outcome in zip(parts, found, strict=True):
            scores[index][part] = scores_of(outcome)
            if isinstance(outcome, Scores):
                states[index] = outcome.state
        return [Scores(scores=own, state=state) for own, state in zip(scores, states, strict=True)]

    def submit(self, request: Request, deliver: Callable[[Outcome], None]) -> int:
        """Queue a request and return its number; ``deliver`` is told its outcome by whoever drives the engine.

        Raises:
            ConfigError, CapacityError: it cannot be answered.
        """
        with self.lock:
            trie = self.trie
            decoder = self._search.decoder
            request.require(vocabulary=decoder.vocabulary, window=decoder.window, items=trie.num_items)
            if request.seed is not None and self.config.normalise != "trie":
                raise ConfigError(
                    "SIDs cannot be sampled under this normalisation",
                    seen=self.config.normalise,
                    allowed="trie: only there the codes after a prefix have probabilities that sum to 1",
                    fix="leave seed out, or search with normalise='trie'",
                )
            if trie.num_items == 0:
                deliver(Answer(sids=[], scores=[], short=True))
                return _NO_JOB
            widths = request.widths(trie.space.levels, self.config.beam)
            rows = self._rows(widths)
            task = Task(request=request, trie=trie, asked=widths[-1], rows=rows, wanted=None, deliver=deliver)
            return self.loop.submit(task, catalog=self._version)

    def _rows(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Beams after each level: no level holds more than it has nodes, however wide the request."""
        return tuple(max(min(width, count), 1) for width, count in zip(widths, self.trie.level_sizes[1:], strict=True))

    def submit_scoring(
        self, request: Request, sids: Sequence[Sid] | np.ndarray, deliver: Callable[[Outcome], None]
    ) -> int:
        """Queue the scoring of one request's SIDs; -inf for those that the trie does not hold.

        Raises:
            CapacityError: more SIDs than a batch has rows.
        """
        with self.lock:
            codes = np.asarray(sids, dtype=np.int64).reshape(-1, self.trie.space.levels)
            paths = self.trie.paths(codes)
            places = held(paths)
            whole = np.full(len(codes), -np.inf, dtype=np.float32)

            def fill(outcome: Outcome) -> None:
                if isinstance(outcome, np.ndarray | Scores):
                    whole[places] = scores_of(outcome)
                    outcome = whole if isinstance(outcome, np.ndarray) else replace(outcome, scores=whole)
                deliver(outcome)

            if len(places) == 0:
                fill(np.empty(0, np.float32))
                return _NO_JOB
            return self._submit_scoring(request, codes[places], paths[places], fill)

    def cancel(self, number: int) -> bool:
        """Give a request up: its outcome is ``Refused``. False: it has its outcome already."""
        with self.lock:
            return self.loop.cancel(number)

    def advance(self) -> None:
        """Drive the engine on by a moment."""
        with self.lock:
            self.loop.advance()

    def prepare(self, trie: Trie) -> None:
        """The part of ``swap`` that takes long and that no batch waits for; ``swap`` does the rest.

        Raises:
            CapacityError: as ``swap``.
        """
        self.loop.runner.catalog.prepare(trie)

    def swap(self, trie: Trie) -> None:
        """Make another catalog of the same SID space the active one; requests asked before are answered with theirs.

        Raises:
            CapacityError: it does not fit into the buffers (``Budgets.catalog_headroom``).
        """
        catalog = self.loop.runner.catalog
        if not catalog.prepared(trie):
            catalog.prepare(trie)
        with self.lock:
            self.trie, self._version = trie, self._version + 1

    def purge(self, user: str) -> None:
        """Forget all that is kept of a user; no byte of their prompts stays in the engine's memory."""
        with self.lock:
            self.loop.purge(user)

    def close(self) -> None:
        """Let other ranks forget this engine; nothing may be asked after that. One rank has nothing to forget."""
        with self.lock:
            self.loop.runner.close()

    def warm_up(self, requests: Sequence[Request], batches: Sequence[int] = (1,)) -> float:
        """Compile, capture and time batches of these requests' sizes, so that later ones find all of it done.

        A size that was not warmed up costs the first batch that has it seconds (kernels are compiled for every power of
        two of requests) and the second one the capture of its graphs.

        Args:
            requests: representative ones, without users or timeouts.
            batches: how many of them, from the first on, make a batch.

        Returns:
            Seconds that it took.
        """
        start = time.monotonic()
        with self.loop.runner.graphs.hasty():
            for size in batches:
                for _ in range(3):  # compiled, captured, timed
                    self.generate([requests[index % len(requests)] for index in range(size)])
        self._warm()
        return time.monotonic() - start

    def warm_up_all(self, request: Request, *, widest: int) -> float:
        """Capture graphs that batches of any mix of requests can be padded to, so that live traffic waits for none.

        Some eighty of them, and as many again where forced levels are left out of large batches: for a service, not for
        lists that are made once. On a CPU there is nothing to prepare.

        Args:
            request: without user or timeout, of the width that is usual.
            widest: the most beams that a request will want.

        Returns:
            Seconds that it took.
        """
        start, runner, limits = time.monotonic(), self.loop.runner, self.loop.scheduler.limits
        if not runner.graphs.possible:
            return 0.0
        usual = replace(request, tokens=request.tokens[:_SHORT])
        pages = (0,) * self.loop.scheduler.cache.pages_for(len(usual.tokens))
        widths = usual.widths(self.trie.space.levels, self.config.beam)
        seat = Seat(job=0, length=len(usual.tokens), cached=0, pages=pages, rows=self._rows(widths))
        one = StepPlan(kind=Kind.SEARCH, catalog=0, seats=(seat,)).sizes
        found = any_sizes(
            replace(one, widest=self._search.widest or one.widest),
            requests=limits.requests, pages=runner.room.pages, tokens=limits.tokens, rows=limits.rows,
            widths=(min(widest, limits.widest),), window=self._search.decoder.window,
            compact=self._search.compact_from,
        )  # fmt: skip
        nothing = np.zeros(self.trie.num_items, dtype=np.bool_)
        nothing.flags.writeable = False  # stays on the device
        narrow = replace(usual, beam=1, allowed=nothing)  # no beam must pass the decoder: any number of rows may
        for ahead in found:
            if ahead.running is not None and self.config.parallel.ranks > 1:
                continue  # ranks are not told how many rows of a compact search to run: they have graphs as they come
            with runner.graphs.hasty(), runner.padding.held(ahead):
                for _ in range(2):  # compiled, captured
                    before = runner.graphs.unusual
                    self.generate([narrow] * ahead.requests)
                    if runner.graphs.unusual == before:
                        break
        self._warm()
        seconds = time.monotonic() - start
        log(f"{len(runner.graphs.keys)} CUDA graphs, of which any batch finds one near: {seconds:.1f} s")
        return seconds

    def _warm(self) -> None:
        """What is compiled is kept for the next process, and what is in memory for this one."""
        if self._compiled is not None:
            self._compiled.seal()
        # What is there by now stays: garbage collections that look through all of it again hold up batches.
        gc.collect()
        gc.freeze()

    def _submit_scoring(
        self, request: Request, codes: np.ndarray, paths: np.ndarray, deliver: Callable[[Outcome], None]
    ) -> int:
        with self.lock:
            decoder = self._search.decoder
            request.require(vocabulary=decoder.vocabulary, window=decoder.window, items=self.trie.num_items)
            wanted = Candidates.of(codes, paths, self.trie, self.config.normalise)
            task = Task(
                request=request, trie=self.trie, asked=len(codes), rows=wanted.rows, wanted=wanted, deliver=deliver
            )
            return self.loop.submit(task, catalog=self._version)

    def _run(
        self, submits: Sequence[Callable[[Callable[[Outcome], None]], int]], outcomes: list[Outcome | None]
    ) -> None:
        """Submit all or none, then drive the engine until each has an outcome."""
        numbers: list[int] = []
        with self.lock:
            try:
                for place, submit in enumerate(submits):
                    numbers.append(submit(partial(outcomes.__setitem__, place)))
            except GenrecallError:
                for number in numbers:
                    self.loop.cancel(number)
                raise
        while any(outcome is None for outcome in outcomes):
            self.advance()


def answer_of(outcome: Outcome | None) -> Answer:
    """An answer, or the error that came instead, raised."""
    if isinstance(outcome, Answer):
        return outcome
    raise _error(outcome)


def scores_of(outcome: Outcome | None) -> np.ndarray:
    """Scores, or the error that came instead, raised."""
    if isinstance(outcome, Scores):
        return outcome.scores
    if isinstance(outcome, np.ndarray):
        return outcome
    raise _error(outcome)


def _error(outcome: Outcome | None) -> Exception:
    if isinstance(outcome, Refused):
        return TimeoutError(f"a request was given up: {outcome.reason}")
    assert isinstance(outcome, GenrecallError), "every outcome is an answer, scores, a refusal or an error"
    return outcome


def _some_sid(trie: Trie) -> Sid:
    """The first one of a catalog."""
    found, node = [], ROOT
    for _ in range(trie.space.levels):
        codes, nodes = trie.children(node)
        found.append(int(codes[0]))
        node = int(nodes[0])
    return tuple(found)


def _codes(sids: Sequence[Sid] | np.ndarray, levels: int) -> np.ndarray:
    return np.asarray(sids, dtype=np.int64).reshape(-1, levels)


def _split(rows: np.ndarray, most: int) -> list[np.ndarray]:
    return [rows[begin : begin + most] for begin in range(0, len(rows), most)]


def _written_rows(model: PreTrainedModel | ItemTrunk | Checkpoint) -> int:
    if isinstance(model, ItemTrunk):
        return model.space.num_tokens
    return Architecture.read(model.skeleton() if isinstance(model, Checkpoint) else model).vocabulary


def _require_tokens(sid_tokens: Sequence[np.ndarray], trie: Trie, vocabulary: int) -> None:
    sizes = tuple(len(ids) for ids in sid_tokens)
    if sizes != trie.space.codes:
        raise ConfigError(
            "the SID tokens do not fit the trie",
            seen=f"{sizes} tokens by level",
            allowed=f"{trie.space.codes}",
            fix="use the vocabulary and the SID table of one bundle",
        )
    ids = np.concatenate(list(map(np.asarray, sid_tokens)))
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise ConfigError(
            "SID tokens lie outside the model's vocabulary",
            seen=f"{ids.min()} … {ids.max()}",
            allowed=f"0 … {vocabulary - 1}",
            fix="use the vocabulary that was stored with this model",
        )
