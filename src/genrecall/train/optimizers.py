"""Which parameters are moved by what.

AdamW (Loshchilov & Hutter 2019) moves everything, or Muon moves the matrices of the blocks and AdamW the rest:

    M ← μ M + G,   W ← W − lr · 0.2 √max(rows, columns) · NewtonSchulz₅(μ M + G) − lr · λ W

(Jordan et al. 2024; the scale is that of Liu et al. 2025, arXiv 2502.16982, so one learning rate serves both). It is
torch's Muon, which computes in bfloat16; where that is not native, ours, which computes in float32. Embeddings, and
with them the tied output rows, are no linear maps of activations: AdamW's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from genrecall.hardware import has_bf16
from genrecall.train.config import TrainConfig
from genrecall.train.sequence.optimizers import Muon

_TABLES = ("embed_tokens", "lm_head")


def optimizers(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> list[torch.optim.Optimizer]:
    """One or two optimisers over the trained parameters; only matrices decay."""
    matrices = {name: p for name, p in parameters.items() if p.ndim >= 2}
    vectors = [p for p in parameters.values() if p.ndim < 2]
    muon = [p for name, p in matrices.items() if config.optimizer == "muon" and not any(t in name for t in _TABLES)]
    taken = {id(p) for p in muon}
    groups = [
        {"params": [p for p in matrices.values() if id(p) not in taken], "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    ]
    rate, decay = config.learning_rate, config.weight_decay
    if muon and has_bf16(muon[0].device):
        chosen.append(torch.optim.Muon(muon, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    elif muon:
        chosen.append(Muon(muon, rate=rate, weight_decay=decay))
    return chosen
