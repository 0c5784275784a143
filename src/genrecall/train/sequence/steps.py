"""One optimiser step at a time; on CUDA the whole of it is one graph for each shape of batch.

A shape's first batches run as they are written: they count as steps, let libraries choose their kernels and create the
optimisers' state. The next one is captured (gather, forward, backward, clipping, optimisers, average), and from then on
a step costs the host a few small copies and one launch. All of it happens on one stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from genrecall import hardware
from genrecall.errors import ConfigError
from genrecall.model.sequence import SequenceModule
from genrecall.train.average import Average
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.data import Plan
from genrecall.train.sequence.feed import IN_FLIGHT, Feed
from genrecall.train.sequence.optimizers import optimizers

_EAGER_STEPS = 2


class Steps:
    """Module, optimisers and batches on their device.

    Args:
        module: moved to the device and trained in place.
        feed: of batches.
        config: settings.
        device: to train on.
    """

    def __init__(self, module: SequenceModule, feed: Feed, config: SequenceConfig, device: torch.device) -> None:
        self.module, self.feed, self.config, self.device = module.to(device), feed, config, device
        self.bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and hardware.has_bf16(device))
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.rate = torch.zeros((), device=device)
        self.optimizers = optimizers(module, self.parameters, config, self.rate)
        self.average = Average(self.parameters, config.ema_decay)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.flops = 0
        self._blend = torch.zeros((), device=device)
        self._graphed = config.graphs and device.type == "cuda"
        self._counts_flops = device.type == "cuda" and hardware.peak_flops(device) is not None
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None
        self._eager = dict.fromkeys(range(len(config.shapes)), 0)
        self._flops_of: dict[int, int] = {}
        self._done = [torch.cuda.Event() for _ in range(IN_FLIGHT)] if device.type == "cuda" else []

    @contextmanager
    def stream(self) -> Iterator[None]:
        """The stream that everything inside runs on; a graph cannot be captured on the default one."""
        if self.device.type != "cuda":
            yield
            return
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            yield
        torch.cuda.current_stream(self.device).wait_stream(side)

    def run(self, plan: Plan, number: int, *, step: int, rate: float) -> None:
        """Step number ``step`` (from 1) on a batch of the plan that the feed has taken up."""
        shape = int(plan.shape[number])
        if self._done:
            self._done[step % IN_FLIGHT].synchronize()
        self.rate.fill_(rate)
        self._blend.fill_(self.average.weight(step))
        self.feed.load(number)
        if not self._graphed or self._eager[shape] < _EAGER_STEPS:
            self._first(shape)
        else:
            if shape not in self._graphs:
                self._graphs[shape] = self._capture(shape)
            self._graphs[shape].replay()
        self.flops += self._flops_of.get(shape, 0)
        if self._done:
            self._done[step % IN_FLIGHT].record()

    def mean_loss(self, targets: int) -> float:
        """Nats a target since the last call, in which ``targets`` were learnt from."""
        loss = float(self.loss) / max(targets, 1)
        self.loss.zero_()
        if loss != loss or abs(loss) == float("inf"):
            raise ConfigError(
                "the loss is not a number any more",
                seen=loss,
                allowed="a finite loss",
                fix="lower the learning rate, or train in float32",
            )
        return loss

    def _first(self, shape: int) -> None:
        self._eager[shape] += 1
        if not self._counts_flops or shape in self._flops_of:
            self._step(shape)
            return
        with FlopCounterMode(display=False) as counter:
            self._step(shape)
        self._flops_of[shape] = counter.get_total_flops()

    def _capture(self, shape: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self.device)
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            self._step(shape)
        self._pool = self._pool or graph.pool()
        return graph

    def _step(self, shape: int) -> None:
        """What a graph holds; the gradients live and die inside."""
        batch = self.feed.batch(shape)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss, count = self.module.loss(batch)
        (loss / count.clamp(min=1)).backward()
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip, foreach=True)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.blend(self._blend)
        self.loss += loss.detach()
