"""Requests as tensors: the only place where host data goes to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genrecall.engine.host.request import Request
from genrecall.index.trie import Trie


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """R prompts: ``tokens`` int64 (R, T) padded on the right, ``length`` int64 (R,)."""

    tokens: torch.Tensor
    length: torch.Tensor

    @classmethod
    def of(cls, requests: Sequence[Request], device: torch.device) -> Prompts:
        """Pad to the longest."""
        lengths = np.array([len(request.tokens) for request in requests], dtype=np.int64)
        tokens = np.zeros((len(requests), lengths.max()), dtype=np.int64)
        for row, request in zip(tokens, requests, strict=True):
            row[: len(request.tokens)] = request.tokens
        return cls(tokens=torch.from_numpy(tokens).to(device), length=torch.from_numpy(lengths).to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Filters:
    """Node masks of R requests: ``allowed`` bool (U, N), ``row`` int64 (R,) with -1 where nothing is filtered."""

    allowed: torch.Tensor
    row: torch.Tensor

    @classmethod
    def of(cls, requests: Sequence[Request], trie: Trie, device: torch.device) -> Filters | None:
        """One node mask for each distinct item mask; requests that pass the same array share it. None: no filters."""
        number: dict[int, int] = {}
        masks: list[np.ndarray] = []
        row = np.full(len(requests), -1, dtype=np.int64)
        for index, request in enumerate(requests):
            if request.allowed is None:
                continue
            if id(request.allowed) not in number:
                number[id(request.allowed)] = len(masks)
                masks.append(trie.allowed_nodes(request.allowed))
            row[index] = number[id(request.allowed)]
        if not masks:
            return None
        return cls(allowed=torch.from_numpy(np.stack(masks)).to(device), row=torch.from_numpy(row).to(device))
