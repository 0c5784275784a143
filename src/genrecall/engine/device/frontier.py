"""The beams that a level of a search leaves, and memory where the next level finds them at the same address every time.

Graphs hold addresses. Where all levels are one graph, its own memory will do; where each is a graph of its own, of as
many rows as must run this time, any of the graphs of a level may have been the one that ran.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.engine.device.staging import aligned
from genrecall.kernels.rows import RowRanges


@dataclass(frozen=True, kw_only=True, eq=False)
class Frontier:
    """M beams, requests ascending and in SID order within a request; padding between requests.

    Attributes:
        ranges: where each request's beams are.
        node: int32 (M,).
        codes: int32 (M, depth).
        score: float32 (M,), -inf in padding.
        key: float32 (M,), what was ranked by: the score, or the perturbed one of a sample.
        ancestry: int32 (M, depth-1), suffix rows of the codes before the last; meaningless for resolved beams.
        parent: int32 (M,), row in the frontier before.
        broken: int32 (R,), 1 where a logit that counts was not finite.
    """

    ranges: RowRanges
    node: torch.Tensor
    codes: torch.Tensor
    score: torch.Tensor
    key: torch.Tensor
    ancestry: torch.Tensor
    parent: torch.Tensor
    broken: torch.Tensor

    def wipe(self) -> None:
        """Overwrite what was found."""
        for tensor in (self.node, self.codes, self.score, self.key, self.ancestry, self.parent):
            tensor.zero_()


class FrontierMemory:
    """Room for one frontier of each level.

    Args:
        levels: L.
        rows: the most of a level.
        requests: the most of a batch.
        device: where.
    """

    def __init__(self, levels: int, rows: int, requests: int, device: torch.device) -> None:
        self._memory = [
            torch.zeros(
                4 * aligned(rows) + aligned(rows * (level + 1)) + aligned(rows * level) + 3 * aligned(requests + 1),
                dtype=torch.int32, device=device,
            )
            for level in range(levels)
        ]  # fmt: skip

    def hold(self, level: int, frontier: Frontier) -> Frontier:
        """A copy, at an address that depends on the frontier's sizes alone."""
        memory, at = self._memory[level], 0

        def kept(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal at
            own = memory[at : at + tensor.numel()].view(tensor.dtype).view(tensor.shape)
            at += aligned(tensor.numel())
            return own.copy_(tensor)

        return Frontier(
            ranges=RowRanges(begin=kept(frontier.ranges.begin), count=kept(frontier.ranges.count)),
            node=kept(frontier.node), codes=kept(frontier.codes), score=kept(frontier.score), key=kept(frontier.key),
            ancestry=kept(frontier.ancestry), parent=kept(frontier.parent), broken=kept(frontier.broken),
        )  # fmt: skip

    def wipe(self) -> None:
        """Overwrite all of them."""
        for memory in self._memory:
            memory.zero_()
