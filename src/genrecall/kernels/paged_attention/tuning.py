"""Choosing the attention kernel's launch by trying: at warm-up, on the engine's own tensors, never within a capture.

    launch = argmin over candidates of the time of the call within a CUDA graph

What is found holds for the process, for all calls of the same key; other calls take the launches of ``launch``, which
were found in the same way on an H100.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from genrecall.kernels.paged_attention.launch import CANDIDATES, Launch, LaunchKey, remember

logger = logging.getLogger(__name__)
_CALLS = 10


def tune(run: Callable[[Launch], object], key: LaunchKey) -> Launch:
    """Time every candidate and keep the fastest for later calls.

    Args:
        run: calls ``triton.attend_beams`` or ``triton.attend_prompts`` with the launch that it is given.
        key: of these calls.
    """
    assert not torch.cuda.is_current_stream_capturing(), "tuning belongs to warm-up"
    times = {candidate: _milliseconds(run, candidate) for candidate in CANDIDATES}
    best = min(times, key=times.__getitem__)
    logger.info("attention, %s: %s, %.4f ms", key, best, times[best])
    remember(key, best)
    return best


def _milliseconds(run: Callable[[Launch], object], launch: Launch) -> float:
    """The least of three replays, so that a disturbed one does not decide."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(launch)  # compiles
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_CALLS):
            run(launch)
    times = []
    for _ in range(4):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / _CALLS)
    return min(times[1:])
