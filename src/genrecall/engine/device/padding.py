"""What batches are padded to: their own sizes, or larger ones of which there are graphs already.

``argmin_s Σ rows(s)`` over captured sizes s that hold the batch and are ``near`` its own (``host.step``).

Batches of live traffic come in more sizes than anybody can capture ahead: with every mix of widths, of prompt lengths
and of kept prefixes. To run a new one as it is and capture it when it comes back takes a tenth of a second and more,
in which nobody is answered. As servers of language models do (Kwon et al. 2023 pad decoding to a list of captured batch
sizes), graphs of a few sizes are captured while warming up (``Engine.warm_up_all``); we deviate by padding prompt
tokens, requests and each level's rows together, and by own graphs of sizes that come often and have nothing near.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from genrecall.engine.device.beams import SearchShape
from genrecall.engine.device.graphs import Graphs
from genrecall.engine.host.step import Sizes, fit, fit_requests, ladder, near

LONG, OFTEN = 2048, 8
"""Prompt tokens of a batch from which on it computes for longer than its kernels take to launch one by one, and how
often a size must come until it has a graph of its own although it could do without."""
_FAR = 4
"""Sizes with so many times as much padding as near ones have do until then."""
_FRONTIERS = (256, 1024, 4096)
"""Rows of a level of compact searches that any batch is to find: what is not run costs little, too."""
_REQUESTS, _PAGES = 128, 256
"""Of sizes that any batch is to find; padding with requests and with places in the page table costs little."""
_KEPT = 4096


class Prompts(NamedTuple):
    """Names a graph that reads prompts."""

    requests: int
    pages: int
    tokens: int


@dataclass(frozen=True)
class Levels:
    """Names a graph of all levels of a search.

    Attributes:
        requests, pages: as in ``Sizes``.
        shape: of the levels.
    """

    requests: int
    pages: int
    shape: SearchShape

    def serve(self, other: Levels) -> bool:
        """Whether it computes what the other would, but for its size."""
        return self.shape == replace(other.shape, rows=self.shape.rows, widest=self.shape.widest)


class Part(NamedTuple):
    """Names a graph of one level of a compact search, of which so many rows pass the decoder."""

    levels: Levels
    level: int
    running: int


class Ahead(NamedTuple):
    """A graph that is made ahead: for batches of so many requests, padded to these sizes.

    ``running``: the least rows that pass the decoder at each level of a compact search; None: those that must.
    """

    sizes: Sizes
    requests: int
    running: int | None = None


class Padding:
    """Chooses sizes.

    Args:
        graphs: that there are.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self._held: Ahead | None = None
        self._compact: dict[Levels, set[int]] = {}
        self._wanted: Counter[Levels] = Counter()

    def choose(self, own: Sizes, levels: Levels) -> Sizes:
        """What a batch is padded to; ``own`` is the least, and ``levels`` names the graph of it."""
        keys = self.graphs.keys
        if self._held is not None and self._held.sizes.hold(own):
            return self._held.sizes
        if self.graphs.in_haste or (levels in keys and Prompts(own.requests, own.pages, own.tokens) in keys):
            return own
        if levels.shape.compact:
            # Rows of a frontier cost little where they need not pass the decoder: any that hold the batch will do.
            made = (key for key in self._compact if key.serve(levels))
            sized = (Sizes(key.requests, key.pages, own.tokens, key.shape.rows, key.shape.widest) for key in made)
            fitting = [sizes for sizes in sized if sizes.hold(own)]
            if not fitting:
                return self._read(own) or own
            # Places for requests that are not there cost more than rows that need not run.
            fewest = min(sizes.requests for sizes in fitting)
            return self._best([sizes for sizes in fitting if sizes.requests == fewest])
        nearest: list[Sizes] = []
        far: list[Sizes] = []
        bound = near(own.run, len(own.rows) - 1)
        for key in keys:
            if isinstance(key, Levels) and key.requests >= own.requests and key.shape.rows[0] >= own.rows[0]:
                sizes = Sizes(key.requests, key.pages, own.tokens, key.shape.rows, key.shape.widest)
                if sizes.hold(own) and sizes.run <= own.run + _FAR * (bound - own.run) and key.serve(levels):
                    (nearest if sizes.run <= bound else far).append(sizes)
        if nearest:
            return self._best(nearest)
        if far and not (self._often(levels) and self.graphs.has_room):
            return self._best(far)
        return self._read(own) or own

    def running(self, levels: Levels, level: int, must: int) -> int:
        """How many rows pass the decoder at a level of a compact search where so many must."""
        most = levels.shape.rows[level - 1]
        own = fit(must)
        if self._held is not None and self._held.running is not None:
            self._compact.setdefault(levels, set()).add(self._held.running)
            return min(max(self._held.running, own), most)
        return min(min((count for count in self._compact.get(levels, ()) if count >= own), default=own), most)

    @contextmanager
    def held(self, ahead: Ahead) -> Iterator[None]:
        """Batches that fit are padded to these meanwhile, and what is captured for them is never given up."""
        self._held, self.graphs.lasting = ahead, True
        try:
            yield
        finally:
            self._held, self.graphs.lasting = None, False

    def _often(self, levels: Levels) -> bool:
        if len(self._wanted) > _KEPT:
            self._wanted.clear()
        self._wanted[levels] += 1
        return self._wanted[levels] > OFTEN

    def _best(self, fitting: list[Sizes]) -> Sizes:
        """The smallest that a graph reads the prompts of, too; without one, the smallest."""
        fitting.sort(key=lambda sizes: (sizes.run, sizes.requests, sizes.pages, sizes.widest))
        return next((sizes for sizes in map(self._read, fitting) if sizes is not None), fitting[0])

    def _read(self, sizes: Sizes) -> Sizes | None:
        """With as many tokens as a graph reads, if there is one; long prompts need none."""
        return self._reader(sizes, lambda key: (key.requests, key.pages) == (sizes.requests, sizes.pages))

    def reading(self, own: Sizes) -> Sizes:
        """What a batch that is scored is padded to, whose candidates are padded for themselves."""
        if self.graphs.in_haste or Prompts(own.requests, own.pages, own.tokens) in self.graphs.keys:
            return own
        return self._reader(own, lambda key: key.requests >= own.requests and key.pages >= own.pages) or own

    def _reader(self, sizes: Sizes, fits: Callable[[Prompts], bool]) -> Sizes | None:
        """Those of the graph that reads the fewest tokens."""
        if sizes.tokens >= LONG:
            return sizes
        found = [
            (key.tokens, key.requests, key.pages)
            for key in self.graphs.keys
            if isinstance(key, Prompts) and fits(key) and sizes.tokens <= key.tokens <= near(sizes.tokens)
        ]
        if not found:
            return None
        tokens, requests, pages = min(found)
        return replace(sizes, requests=requests, pages=pages, tokens=tokens)


def any_sizes(
    one: Sizes,
    *,
    requests: int,
    pages: int,
    tokens: int,
    rows: int,
    widths: Sequence[int],
    window: int,
    compact: int | None,
) -> list[Ahead]:
    """Sizes of which, once there are graphs of them, nearly every batch finds one near; larger ones first, so that
    each graph finds room in the scratch memory of those before.

    Args:
        one: of a single request as they usually are.
        requests, pages, tokens, rows: the most of a batch.
        widths: of requests, beside the usual one.
        window: tokens of the longest prompt.
        compact: rows of all levels from which on searches are compact, as those of a single request are then.
    """
    usual, levels, read = max(one.rows), len(one.rows), ladder(1, min(tokens, LONG))
    most = max(min(rows, requests * max((usual, *widths))), usual)
    # The most of a level before searches are compact, where rows grow from level to level as those of one request do.
    whole = most if compact is None else max(min(most, near(compact * usual // sum(one.rows))), usual)
    alone = [count for count in reversed(read) if one.tokens <= count <= max(near(window), read[0])]
    found = [Ahead(replace(one, tokens=count), 1) for count in alone]
    places = fit_requests(min(requests, max(most // usual, _REQUESTS)))
    base = Sizes(places, min(pages, max(one.pages, _PAGES)), read[0], one.rows, one.widest)
    steps = ladder(1, whole)
    # Beams of the usual width grow from level to level as those of one request do, others at once.
    as_usual = [tuple(fit(-(-count * row // usual)) for row in one.rows) for count in steps]
    any_number = [replace(base, rows=of) for of in as_usual]
    wide = sorted({1 << (width - 1).bit_length() for width in widths})
    for width in wide:
        any_number += [replace(base, rows=(count,) * levels, widest=width) for count in steps if width > one.widest]
    any_number += [replace(base, rows=as_usual[0], tokens=count) for count in read]
    any_number = sorted(dict.fromkeys(any_number), key=lambda sizes: (sizes.run, sizes.tokens), reverse=True)
    found += [Ahead(sizes, min(2, requests)) for sizes in any_number]
    if compact is not None:
        widest = max(one.widest, *wide, 1)
        frontiers = sorted({fit(min(count, max((most, *widths)))) for count in (*_FRONTIERS, most)}, reverse=True)
        found += _compact(one, *(replace(base, rows=(count,) * levels, widest=widest) for count in frontiers))
    return found


def _compact(one: Sizes, *frontiers: Sizes) -> list[Ahead]:
    """Of compact searches: every step of rows that may have to run; last those of the usual single request."""
    found: list[Ahead] = []
    for sizes in (*frontiers, one):
        found += [Ahead(sizes, 1, count) for count in [*reversed(ladder(1, max(sizes.rows))), 0]]
    return found
