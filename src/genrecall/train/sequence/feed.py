"""Rows of a plan as batches: gathered on the device where the data fits there, else on the host.

A feed has static inputs, one set for each shape. ``load`` fills them; ``batch`` makes the batch out of them, with the
same operations on the same memory each time, so that a CUDA graph may hold it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from genrecall.model.sequence import SequenceBatch
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.data import Plan, SequenceData, Shared

IN_FLIGHT = 4
"""Steps that may be under way on the device: a host buffer is written again only after so many."""
_SHARE_OF_DEVICE = 0.25


class Feed(ABC):
    """Makes batches of a plan; see ``DeviceFeed`` and ``HostFeed``."""

    @abstractmethod
    def begin(self, plan: Plan) -> None:
        """Take up an epoch."""

    @abstractmethod
    def load(self, number: int) -> None:
        """Bring batch ``number`` of the epoch into the static inputs of its shape."""

    @abstractmethod
    def batch(self, shape: int) -> SequenceBatch:
        """The batch that stands in the static inputs of this shape."""


def open_feed(data: SequenceData, config: SequenceConfig, device: torch.device) -> Feed:
    """The feed that suits data and device."""
    if device.type != "cuda":
        return HostFeed(data, config, device)
    arrays = [*data.beside_targets.values(), *data.beside_users.values()]
    size = sum(array.nbytes for array in arrays) + len(data.histories.items) * (12 if data.timed else 4)
    fits = size <= _SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]
    return (DeviceFeed if fits else HostFeed)(data, config, device)


class DeviceFeed(Feed):
    """All data on the device; a step is told its rows only."""

    def __init__(self, data: SequenceData, config: SequenceConfig, device: torch.device) -> None:
        self._shapes, self._device = config.shapes, device
        self._items = self._put(data.histories.items)
        self._times = self._put(data.histories.times) if data.timed else None
        self._beside_targets = {name: self._put_beside(array) for name, array in data.beside_targets.items()}
        self._beside_users = {name: self._put(array) for name, array in data.beside_users.items()}
        self._rows = [torch.zeros((size, 4), dtype=torch.int64, device=device) for size, _ in self._shapes]
        self._plan: Plan
        self._planned: list[torch.Tensor] = []

    def begin(self, plan: Plan) -> None:
        """Upload an epoch's rows."""
        self._plan = plan
        self._planned = [self._put(rows) for rows in plan.rows]
        if plan.items is not None:
            self._items.copy_(torch.from_numpy(plan.items))

    def load(self, number: int) -> None:
        """One small copy."""
        shape = int(self._plan.shape[number])
        self._rows[shape].copy_(self._planned[shape][int(self._plan.place[number])])

    def batch(self, shape: int) -> SequenceBatch:
        """Gather the rows."""
        rows = self._rows[shape]
        begin, end, first_target, users = rows.unbind(1)
        where = begin[:, None] + torch.arange(self._shapes[shape][1], device=self._device)
        last = len(self._items) - 1
        here, there = where.clamp(max=last), (where + 1).clamp(max=last)
        real = where < end[:, None] - 1
        asked = real & (where + 1 >= first_target[:, None])
        beside = {name: array[there] for name, array in self._beside_targets.items()}
        return SequenceBatch(
            items=self._items[here].masked_fill(~real, 0).long(),
            lengths=(end - begin - 1).clamp(min=0),
            targets=self._items[there].masked_fill(~asked, -1).long(),
            times=None if self._times is None else self._times[here],
            extra={**beside, **{name: array[users] for name, array in self._beside_users.items()}},
        )

    def _put_beside(self, array: np.ndarray | Shared) -> torch.Tensor | Shared:
        if isinstance(array, Shared):
            return Shared(index=self._put(array.index), rows=self._put(array.rows))
        return self._put(array)

    def _put(self, array: np.ndarray) -> torch.Tensor:
        # A copy: arrays of a memory map may not be written to, which torch would warn of.
        return torch.from_numpy(np.array(array)).to(self._device)


class HostFeed(Feed):
    """Data of any size, gathered by numpy; on CUDA through pinned buffers."""

    def __init__(self, data: SequenceData, config: SequenceConfig, device: torch.device) -> None:
        self._data, self._shapes, self._device = data, config.shapes, device
        self._items = data.histories.items
        self._pinned: dict[tuple[int, str, int], torch.Tensor] = {}
        self._static: list[dict[str, torch.Tensor]] = [{} for _ in self._shapes]
        self._loaded = 0
        self._plan: Plan

    def begin(self, plan: Plan) -> None:
        """Nothing is moved yet."""
        self._plan = plan
        self._items = self._data.histories.items if plan.items is None else plan.items

    def load(self, number: int) -> None:
        """Gather on the host and copy."""
        shape = int(self._plan.shape[number])
        arrays = self._gather(self._plan.rows[shape][int(self._plan.place[number])], self._shapes[shape][1])
        for name, array in arrays.items():
            fresh = torch.from_numpy(np.ascontiguousarray(array))
            if self._device.type != "cuda":
                self._static[shape][name] = fresh
                continue
            key = (shape, name, self._loaded % IN_FLIGHT)
            if key not in self._pinned:
                self._pinned[key] = torch.empty(fresh.shape, dtype=fresh.dtype, pin_memory=True)
            if name not in self._static[shape]:
                self._static[shape][name] = torch.empty_like(fresh, device=self._device)
            self._pinned[key].copy_(fresh)
            self._static[shape][name].copy_(self._pinned[key], non_blocking=True)
        self._loaded += 1

    def batch(self, shape: int) -> SequenceBatch:
        """The arrays loaded last."""
        arrays = dict(self._static[shape])
        items, targets, lengths = (arrays.pop(name).long() for name in ("/items", "/targets", "/lengths"))
        return SequenceBatch(
            items=items, lengths=lengths, targets=targets, times=arrays.pop("/times", None), extra=arrays
        )

    def _gather(self, rows: np.ndarray, width: int) -> dict[str, np.ndarray]:
        data = self._data
        begin, end, first_target, users = rows.T
        where = begin[:, None] + np.arange(width)
        last = len(self._items) - 1
        here, there = np.minimum(where, last), np.minimum(where + 1, last)
        real = where < end[:, None] - 1
        asked = real & (where + 1 >= first_target[:, None])
        arrays = {
            "/items": np.where(real, self._items[here], 0),
            "/targets": np.where(asked, self._items[there], -1),
            "/lengths": np.maximum(end - begin - 1, 0),
        }
        if data.timed:
            arrays["/times"] = data.histories.times[here]
        arrays |= {name: array[there] for name, array in data.beside_targets.items()}
        return arrays | {name: array[users] for name, array in data.beside_users.items()}
