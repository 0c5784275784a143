"""A batch on its way: its results travel to pinned memory while the host prepares the next."""

from __future__ import annotations

import time

import numpy as np
import torch

from genrecall.engine.host.step import Sizes, StepPlan


class Flight:
    """A batch on its way.

    Args:
        plan: what runs.
        sizes: what it is padded to.
        results: int32 on the device.
        staged: pinned memory of the same size where the device is not the host's.
        began: event before the batch.
        usual: whether its time says something of later batches.
        ran: the plan without levels that requests took no part in, because they were given up.
    """

    def __init__(
        self,
        plan: StepPlan,
        sizes: Sizes,
        results: torch.Tensor,
        traces: list[list[np.ndarray]] | None,
        began: torch.cuda.Event | float,
        usual: bool,
        ran: StepPlan,
    ) -> None:
        self.ran = ran
        self.plan, self.sizes, self.traces, self._began, self._usual = plan, sizes, traces, began, usual
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

    def wait(self) -> tuple[np.ndarray, float | None]:
        """Results int32, and the seconds that the batch took on its device; None where kernels were compiled or graphs
        captured meanwhile.
        """
        if self._ended is not None and not isinstance(self._began, float):
            self._ended.synchronize()
            self._seconds = self._began.elapsed_time(self._ended) / 1e3
        return self._host.numpy(), self._seconds if self._usual else None
