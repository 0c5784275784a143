"""AdamW and Muon whose steps a CUDA graph may hold.

    M ← μ M + (1 - μ) G,   W ← W − lr · λ W − lr · 0.2 √max(rows, columns) · NewtonSchulz₅(μ M + (1 - μ) G)

Muon after Jordan et al. 2024, scaled after Liu et al. 2025 (arXiv 2502.16982), as in ``torch.optim.Muon``. We deviate:
the learning rate stays a tensor (torch's reads it back to the host, which a graph cannot), matrices of one shape are
orthogonalised together, and in float32 where bfloat16 is not native, since there it is many times slower. AdamW
(Loshchilov & Hutter 2019) is torch's, fused and capturable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from genrecall.hardware import has_bf16
from genrecall.train.sequence.config import SequenceConfig

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def optimizers(
    module: nn.Module, parameters: Mapping[str, nn.Parameter], config: SequenceConfig, rate: torch.Tensor
) -> list[torch.optim.Optimizer]:
    """One or two optimisers that share ``rate``, float32 () on the parameters' device; only matrices decay."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    muon = [
        p
        for name, p in parameters.items()
        if config.optimizer == "muon"
        and p.ndim == 2
        and id(p) not in tables
        and not any(part in name for part in config.adamw_only)
    ]
    taken = {id(p) for p in muon}
    rest = [p for p in parameters.values() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=rate,
            betas=(0.9, 0.98),
            fused=True,
            capturable=rate.device.type == "cuda",
        )
    ]
    return [*chosen, Muon(muon, rate=rate, weight_decay=config.weight_decay)] if muon else chosen


def share_rate(chosen: Iterable[torch.optim.Optimizer], rate: torch.Tensor) -> None:
    """After ``load_state_dict``, which copies the rate: let all groups read this tensor again."""
    for optimizer in chosen:
        for group in optimizer.param_groups:
            group["lr"] = rate


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised.

    Args:
        matrices: parameters (rows, columns).
        rate: float32 () on their device, read at every step; or a number.
        weight_decay: λ.
        momentum: μ.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        rate: torch.Tensor | float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": rate, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                updates = torch.stack([self._momentum(p, group["momentum"]) for p in parameters])
                updates = orthogonal(updates) * (0.2 * max(shape) ** 0.5)
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average: torch.Tensor = state["momentum_buffer"]
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values of (N, rows, columns) come to lie around 1."""
    x = matrices.bfloat16() if has_bf16(matrices.device) else matrices.float()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
