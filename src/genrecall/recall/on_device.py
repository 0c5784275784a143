"""The lists of counting and text channels, computed on a GPU: the same scores, the same rule for ties.

    score(q, ·) = asked(q) · table,    table dense (n, I), its columns by popularity

Exact top-k by one dense product, as brute-force search does it (Johnson, Douze & Jégou, "Billion-scale similarity
search with GPUs", 2017). We deviate: scores and places are sorted as one 64-bit key, because equal scores are the rule
among counts, and a list must not depend on how a GPU breaks ties. A channel whose table outgrows ``_TABLE_BYTES`` keeps
to its sparse product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn import functional as F

from genrecall.hardware import pick_device
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.selection import Popularity, exclusions
from genrecall.recall.sort_keys import sort_keys, ties
from genrecall.telemetry import log

_TABLE_BYTES = 8 << 30
_ROWS, _SCORES = 1024, 2**27
"""Queries of one product, and the most scores (28 bytes each while they are sorted)."""


@runtime_checkable
class ByProduct(Protocol):
    """A channel whose scores are one matrix product."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def popularity(self) -> Popularity: ...  # noqa: D102

    @property
    def table(self) -> Any:
        """(n, I) non-negative SciPy CSR, or dense float32; columns are places by popularity."""
        ...

    def asked(self, queries: Sequence[Query]) -> Any:
        """(R, n) of the same kind."""
        ...


def on_device(channel: Channel, device: str) -> Channel:
    """The channel with its lists made on a CUDA device; itself where ``device`` is none or it is made otherwise."""
    chosen = pick_device(device)
    if chosen.type != "cuda" or not isinstance(channel, ByProduct):
        return channel
    rows, columns = channel.table.shape
    if 4 * rows * columns > _TABLE_BYTES:
        log(f"{channel.name}: a table of {rows:,} x {columns:,} is too large for the GPU, products stay on the CPU")
        return channel
    return OnDevice(channel, chosen)


class OnDevice:
    """A channel by product whose table lies on a device.

    Args:
        channel: answers for its queries.
        device: any; the CPU's answers are the same but for rounding.
    """

    def __init__(self, channel: ByProduct, device: torch.device) -> None:
        self.name = channel.name
        self._channel = channel
        self._table = _dense(channel.table, device)
        # Always so many, so that a batch answers as its queries alone.
        self._rows = max(1, min(_ROWS, _SCORES // self._table.shape[1]))

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query."""
        popularity = self._channel.popularity
        items = np.full((len(queries), k), -1, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        if not queries:
            return Candidates(items=items, scores=scores)
        asked = self._channel.asked(queries)
        rows, excluded = exclusions(queries, len(popularity))
        places = popularity.place[excluded].astype(np.int64)
        width = min(k, len(popularity))
        for begin in range(0, len(queries), self._rows):
            end = min(begin + self._rows, len(queries))
            values = self._scores(asked[begin:end])[: end - begin]
            first, behind = np.searchsorted(rows, [begin, end])
            gone = (torch.from_numpy(rows[first:behind] - begin), torch.from_numpy(places[first:behind]))
            values[tuple(index.to(values.device) for index in gone)] = -torch.inf
            column, top = (part.cpu().numpy() for part in _best(values, width))
            real = np.isfinite(top)
            items[begin:end, :width] = np.where(real, popularity.order[column], -1)
            scores[begin:end, :width] = top
        return Candidates(items=items, scores=scores)

    def _scores(self, asked: Any) -> torch.Tensor:
        """float32 (at least R, I) of the queries of one product."""
        device = self._table.device
        if isinstance(asked, np.ndarray):
            full = torch.zeros(self._rows, asked.shape[1], device=device)
            full[: len(asked)] = torch.from_numpy(asked).to(device)
            return full @ self._table
        offsets, columns, weights = (
            torch.from_numpy(np.asarray(array, dtype=kind)).to(device)
            for array, kind in ((asked.indptr, np.int64), (asked.indices, np.int64), (asked.data, np.float32))
        )
        return F.embedding_bag(
            columns, self._table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )


def _dense(table: Any, device: torch.device) -> torch.Tensor:
    """float32 (n, I); of a sparse table only what is stored travels."""
    if isinstance(table, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(table, dtype=np.float32)).to(device)
    cells = table.tocoo()
    row, column = (torch.from_numpy(index.astype(np.int64)).to(device) for index in (cells.row, cells.col))
    dense = torch.zeros(table.shape, device=device)
    dense[row, column] = torch.from_numpy(cells.data.astype(np.float32)).to(device)
    return dense


def _best(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns int64 (R, k) of the largest values and the values, equal ones by lower column."""
    values = values + 0.0  # no zero is negative
    last = values.shape[1] - 1
    keys = sort_keys(values, last - torch.arange(last + 1, device=values.device))
    column = last - ties(torch.topk(keys, k, dim=1).values)
    return column, values.gather(1, column)
