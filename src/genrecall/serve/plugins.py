"""Channels of others: installed packages that name one under the entry-point group ``genrecall.channels``.

An entry point is a callable that takes the bundle's :class:`Contents` and returns a Channel. Nothing that it does may
reach further than its own line in ``coverage``: one that does not load becomes a lane that fails, and answers that
break the protocol are errors of the plug-in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import cast

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.telemetry import log

GROUP = "genrecall.channels"
Factory = Callable[[Contents], Channel]


def plugins(contents: Contents, taken: Sequence[str]) -> dict[str, Channel]:
    """Channels of all installed plug-ins, by the entry point's name.

    Args:
        contents: of the bundle.
        taken: names of the bundle's own channels, which no plug-in replaces.
    """
    found: dict[str, Channel] = {}
    for point in metadata.entry_points(group=GROUP):
        if point.name in taken or point.name in found:
            log(f"channel {point.name}: the plug-in {point.value} is left out: there is a channel of this name")
            continue
        try:
            channel = cast(Factory, point.load())(contents)
            found[point.name] = Guarded(point.name, channel, len(contents.items))
            log(f"channel {point.name}: from the plug-in {point.value}")
        except Exception as error:  # whatever a stranger's code does at import, the service must start
            reason = f"{type(error).__name__}: {error}"
            log(f"channel {point.name}: the plug-in {point.value} did not load: {reason}")
            found[point.name] = Broken(point.name, reason)
    return found


class Guarded:
    """A plug-in's channel under the name of its entry point; what it answers is held to the protocol."""

    def __init__(self, name: str, channel: Channel, num_items: int) -> None:
        self.name, self._channel, self._num_items = name, channel, num_items

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The channel's lists.

        Raises:
            ValueError: they are not what ``Candidates`` says.
        """
        found = self._channel.recall(queries, k)
        items, scores = np.asarray(found.items), np.asarray(found.scores)
        if items.ndim != 2 or items.shape != scores.shape or len(items) != len(queries):
            raise ValueError(f"items {items.shape} and scores {scores.shape} for {len(queries)} queries")
        if items.dtype.kind not in "iu" or scores.dtype.kind not in "fiu":
            raise ValueError(f"items of type {items.dtype}, scores of type {scores.dtype}")
        kept_items = np.full(items.shape, -1, np.int32)
        kept_scores = np.full(items.shape, -np.inf, np.float32)
        for row, query in enumerate(queries):
            real = items[row][items[row] >= 0]
            listed = scores[row][items[row] >= 0].astype(np.float32)
            if (real >= self._num_items).any() or len(np.unique(real)) < len(real) or not np.isfinite(listed).all():
                raise ValueError("an item twice, an item beyond the catalog, or a score that is no number")
            if (np.diff(listed) > 0).any():
                raise ValueError("scores that rise")
            allowed = ~np.isin(real, query.exclude)  # exclusions are the service's promise, not the plug-in's
            if query.available is not None:
                allowed &= query.available[real]
            count = int(allowed.sum())
            kept_items[row, :count], kept_scores[row, :count] = real[allowed], listed[allowed]
        return Candidates(items=kept_items[:, :k], scores=kept_scores[:, :k])


class Broken:
    """A plug-in that did not load: asked for, it fails, and ``coverage`` says so."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """Fails.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(f"the plug-in did not load: {self.reason}")
