"""Cross-entropy over the whole catalogue, in pieces.

``loss = - Σ_m log softmax_i (h_m · e_i) [y_m]``, gradients ``∂h = (p - 1_y) E`` and ``∂E = (p - 1_y)ᵀ H``. After the
fused loss of Liger Kernel (Hsu et al. 2024, arXiv 2410.10989): gradients are made in the forward pass, so that no more
than one piece of the (M, I) scores is ever stored. We deviate: plain torch, and targets of -1 cost nothing in the sum.
"""

from __future__ import annotations

from typing import Any

import torch

from genrecall.model.blocks import is_mixed, plain_precision

# Scores of a piece: on CPUs a piece should stay near the caches, elsewhere it should fill the device.
_PIECE = {"cpu": 2**21}
_LARGE_PIECE = 2**27


def item_cross_entropy(
    hidden: torch.Tensor, table: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed nats float32 () and the number of targets int64 ().

    Args:
        hidden: (M, D).
        table: (I, D) item vectors.
        targets: int64 (M,) items; -1 where nothing is asked.
    """
    count = (targets >= 0).sum()
    if hidden.device.type == "cpu":  # shapes may follow the data there
        asked = targets >= 0
        hidden, targets = hidden[asked], targets[asked]
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if is_mixed(kind) else hidden.dtype
    return _ItemCrossEntropy.apply(hidden, table, targets, dtype), count


class _ItemCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        with plain_precision(hidden.device.type):
            return _pieces(ctx, hidden, table, targets, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_hidden, by_table = ctx.saved_tensors
        by_hidden = by_hidden * gradients[0].to(by_hidden.dtype)
        return by_hidden, by_table * gradients[0].to(by_table.dtype), None, None


def _pieces(
    ctx: Any, hidden: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    asked = (targets >= 0).to(torch.float32)[:, None]
    right = targets.clamp(min=0)[:, None]
    h, e = hidden.to(dtype), table.to(dtype)
    weighted = h * asked.to(dtype)
    by_hidden = torch.empty_like(h)
    by_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    loss = torch.zeros((), dtype=torch.float32, device=h.device)
    learning = any(ctx.needs_input_grad)
    step = max(1, _PIECE.get(h.device.type, _LARGE_PIECE) // len(e))
    for begin in range(0, len(h), step):
        piece = slice(begin, begin + step)
        scores = h[piece] @ e.T
        loss -= (torch.log_softmax(scores, -1, dtype=torch.float32).gather(1, right[piece]) * asked[piece]).sum()
        if learning:
            p = torch.softmax(scores, -1)
            p.scatter_add_(1, right[piece], p.new_full((1, 1), -1.0).expand(len(p), 1))
            by_hidden[piece] = p @ e
            by_table += p.T @ weighted[piece]
    ctx.save_for_backward((by_hidden * asked.to(dtype)).to(hidden.dtype), by_table.to(table.dtype))
    return loss
