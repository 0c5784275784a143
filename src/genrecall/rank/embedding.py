"""Embedding tables: read where they lie on disk, pooled by bags, replaced row by row while they are in use.

    e = mean of T[r], r ∈ bag

Tables are mapped privately from their file: only pages that are looked at are read, and rows that a delta writes are
copies of this process. One lock makes a batch see one version.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from genrecall.rank.schema import Schema

_SPREAD = 0.05


class Tables(nn.Module):
    """One table a feature.

    Args:
        weights: float32 or float16 (1 + size, width) by feature; rows are pooled in float32.
        version: deltas that are in them.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], *, version: int = 0) -> None:
        super().__init__()
        self.version = version
        self.lock = threading.Lock()
        self.names = list(weights)
        for place, name in enumerate(weights):
            trains = weights[name].dtype == torch.float32
            self.register_parameter(f"table_{place}", nn.Parameter(weights[name], requires_grad=trains))

    @classmethod
    def fresh(cls, schema: Schema, seed: int) -> Tables:
        """Small random rows."""
        generator = torch.Generator().manual_seed(seed)
        return cls({f.name: torch.randn(1 + f.size, f.width, generator=generator) * _SPREAD for f in schema.tabled})

    @classmethod
    def load(cls, file: Path) -> Tables:
        """Mapped from ``tables.safetensors``."""
        return cls(load_file(file))

    def save(self, file: Path, *, half: bool = False) -> None:
        """Write all tables; ``half``: as float16."""
        dtype = torch.float16 if half else torch.float32
        save_file({name: self.of(name).detach().to("cpu", dtype).contiguous() for name in self.names}, file)

    def of(self, name: str) -> torch.Tensor:
        """A feature's table."""
        return self.get_parameter(f"table_{self.names.index(name)}")

    def pool(self, name: str, rows: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """float32 (n, width): means of bags that begin at ``begins`` int64 (n,) of ``rows`` int64; none is empty."""
        table = self.of(name)
        if table.dtype == torch.float32:
            return F.embedding_bag(rows, table, begins, mode="mean", sparse=True)
        own = torch.arange(len(rows), device=rows.device)
        return F.embedding_bag(own, F.embedding(rows, table).float(), begins, mode="mean")

    def look(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """float32 (…, width) of int64 rows of any shape."""
        return F.embedding(rows, self.of(name), sparse=True).float()

    def write(self, changes: Mapping[str, tuple[torch.Tensor, torch.Tensor]], version: int) -> None:
        """Replace rows int64 (n,) of tables by values (n, width), all at once for whoever holds the lock to read."""
        with self.lock, torch.no_grad():
            for name, (rows, values) in changes.items():
                table = self.of(name)
                table[rows.to(table.device)] = values.to(table.device, table.dtype)
            self.version = version
