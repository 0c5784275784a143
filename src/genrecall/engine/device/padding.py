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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from genrecall.engine.device.beams import SearchShape
from genrecall.engine.device.graphs import Graphs
from genrecall.engine.host.step import Sizes, fit_requests, ladder, near

LONG = 2048
"""Prompt tokens of a batch from which on it computes for longer than its kernels take to launch one by one."""
_FAR, _OFTEN = 4, 8
"""Sizes with so many times as much padding as near ones have do for so many times, until a batch has its own graph."""
_REQUESTS = 128
"""Of the sizes that any batch is to find: more requests at once are narrow, and compute for long."""


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


class Padding:
    """Chooses sizes.

    Args:
        graphs: that there are.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self._held: Sizes | None = None
        self._known: dict[tuple[Sizes, Levels], Sizes] = {}
        self._wanted: Counter[tuple[Sizes, Levels]] = Counter()
        self._captured = 0

    def choose(self, own: Sizes, levels: Levels) -> Sizes:
        """What a batch is padded to; ``own`` is the least, and ``levels`` names the graph of it."""
        if self._held is not None and self._held.hold(own):
            return self._held
        if self.graphs.in_haste:
            return own
        if self.graphs.captured != self._captured:
            self._known, self._captured = {}, self.graphs.captured
        found = self._known.get((own, levels))
        if found is None:
            found = self._known[own, levels] = self._find(own, levels)
        if found.run > near(own.run, len(own.rows) - 1):
            self._wanted[own, levels] += 1
            if self._wanted[own, levels] > _OFTEN:
                return own
        return found

    @contextmanager
    def held(self, sizes: Sizes) -> Iterator[None]:
        """Batches that fit are padded to these meanwhile."""
        self._held = sizes
        try:
            yield
        finally:
            self._held = None

    def _find(self, own: Sizes, levels: Levels) -> Sizes:
        fitting: list[Sizes] = []
        most = own.run + _FAR * (near(own.run, len(own.rows) - 1) - own.run)
        for key in self.graphs.keys:
            if isinstance(key, Levels) and key.serve(levels):
                sizes = Sizes(key.requests, key.pages, own.tokens, key.shape.rows, key.shape.widest)
                if sizes.hold(own) and sizes.run <= most:
                    fitting.append(sizes)
        fitting.sort(key=lambda sizes: (sizes.run, sizes.requests, sizes.pages, sizes.widest))
        whole = (sizes for sizes in map(self._read, fitting) if sizes is not None)
        return next(whole, fitting[0] if fitting else self._read(own) or own)

    def _read(self, sizes: Sizes) -> Sizes | None:
        """With as many tokens as a graph reads, if there is one; long prompts need none."""
        if sizes.tokens >= LONG:
            return sizes
        tokens = (
            key.tokens
            for key in self.graphs.keys
            if isinstance(key, Prompts) and (key.requests, key.pages) == (sizes.requests, sizes.pages)
        )
        least = min((count for count in tokens if sizes.tokens <= count <= near(sizes.tokens)), default=None)
        return None if least is None else replace(sizes, tokens=least)


def any_sizes(one: Sizes, two: Sizes, *, requests: int, tokens: int, rows: int, widest: int) -> list[Sizes]:
    """Sizes of which, once there are graphs of them, every batch finds one.

    Args:
        one: of one request.
        two: of two of them, which fit into all other sizes.
        requests, tokens, rows: the most of a batch.
        widest: the most beams of a request.
    """
    tokens = max(min(tokens, LONG), two.tokens)
    alone = [replace(one, tokens=count) for count in ladder(one.tokens, tokens)]
    if max(two.rows) > rows:  # no batch holds two
        return alone
    many = replace(two, requests=fit_requests(min(requests, _REQUESTS)))
    widths = {two.widest, max(two.widest, 1 << (widest - 1).bit_length())}
    levels = [(count,) * len(two.rows) for count in ladder(max(two.rows), rows)]
    return [
        *alone,
        *(replace(many, tokens=count, rows=levels[0]) for count in ladder(two.tokens, tokens)),
        *(replace(many, rows=of, widest=width) for width in sorted(widths) for of in levels),
    ]
