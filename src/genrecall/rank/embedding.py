"""Embedding tables: read where they lie on disk, pooled by bags, replaced row by row while they are in use.

    e = mean of T[r], r ∈ bag

Tables are mapped privately from their file: only pages that are looked at are read, and rows that a delta writes are
copies of this process. Those that a GPU has no room for stay in host memory behind a cache (``hosted``). One lock makes
a batch see one version: reads and writes are launched under it, into one stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from genrecall.rank.hosted import HostedTable
from genrecall.rank.schema import Schema

_SPREAD = 0.05
_FREE_SHARE = 0.5
"""Of the GPU's free memory that tables and caches may take."""
_CACHED_SHARE = 0.05
"""Of a hosted table that its cache holds at most: ids follow power laws, and more hardly adds hits."""


class Tables(nn.Module):
    """One table a feature.

    Args:
        weights: float32 or float16 (1 + size, width) by feature; rows are pooled in float32.
        version: deltas that are in them.

    Attributes:
        flat: all tables that lie on a GPU as a whole, after each other; None elsewhere.
        starts: where each begins in it.
        stream: of all reading and writing; None on a CPU. Before others', so that nobody who waits for an order waits
            for the engine's batches, too.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], *, version: int = 0) -> None:
        super().__init__()
        self.version = version
        self.lock = threading.Lock()
        self.names = list(weights)
        self.hosted: dict[str, HostedTable] = {}
        self.flat: torch.Tensor | None = None
        self.starts: dict[str, int] = {}
        self.stream: torch.cuda.Stream | None = None
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

    def serve_on(self, device: torch.device, room: int | None = None) -> Tables:
        """Move to where they will answer: the smallest as long as there is room, the others behind caches that share
        what is left in proportion to their tables; these learn no more.

        Args:
            device: of the network.
            room: bytes for tables and caches; None: half of a GPU's free memory, and on a CPU no limit.
        """
        if room is None:
            room = int(torch.cuda.mem_get_info(device)[0] * _FREE_SHARE) if device.type == "cuda" else 2**62
        sizes = {name: self.of(name).numel() * self.of(name).element_size() for name in self.names}
        names = sorted(self.names, key=sizes.__getitem__)
        whole = len(names)
        while whole and _needed([sizes[name] for name in names], whole) > room:
            whole -= 1
        left, far = room - sum(sizes[name] for name in names[:whole]), sum(sizes[name] for name in names[whole:])
        for name in names[whole:]:
            share = min(left * sizes[name] // far, int(sizes[name] * _CACHED_SHARE))
            self.hosted[name] = HostedTable(self.of(name), device, share)
            self.register_parameter(self._key(name), None)
        if device.type == "cuda":
            self.pack(names[:whole], device)
            self.stream = torch.cuda.Stream(device, priority=-1)
            torch.cuda.synchronize(device)
        return self

    def pack(self, names: Sequence[str], device: torch.device) -> None:
        """Move tables into one piece of memory, of which they become parts; float16 if all of them are."""
        tables = [self.of(name).detach() for name in names]
        half = all(table.dtype == torch.float16 for table in tables)
        sizes = [table.numel() for table in tables]
        self.flat = torch.empty(sum(sizes), dtype=torch.float16 if half else torch.float32, device=device)
        for name, table, part in zip(names, tables, self.flat.split(sizes), strict=True):
            self.starts[name] = int(part.storage_offset())
            trains = self.of(name).requires_grad
            setattr(self, self._key(name), nn.Parameter(part.view(table.shape).copy_(table), requires_grad=trains))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Tables:
        assert self.flat is None, "packed tables stay where they are"
        super()._apply(fn, recurse)
        return self

    def of(self, name: str) -> torch.Tensor:
        """A feature's table; that of a hosted one lies on the host."""
        hosted = self.hosted.get(name)
        return self.get_parameter(self._key(name)) if hosted is None else hosted.table

    def pool(self, name: str, rows: torch.Tensor, begins: torch.Tensor | None) -> torch.Tensor:
        """float32 (n, width): means of bags that begin at ``begins`` int64 (n,) of ``rows`` int64; none is empty. None:
        every bag holds one row.
        """
        if begins is None:
            return self.look(name, rows)
        hosted = self.hosted.get(name)
        if hosted is None and self.of(name).dtype == torch.float32:
            return F.embedding_bag(rows, self.of(name), begins, mode="mean", sparse=True)
        found = F.embedding(rows, self.of(name)) if hosted is None else hosted.look(rows)
        own = torch.arange(len(rows), device=rows.device)
        return F.embedding_bag(own, found.float(), begins, mode="mean")

    def look(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """float32 (…, width) of int64 rows of any shape."""
        hosted = self.hosted.get(name)
        return (F.embedding(rows, self.of(name), sparse=True) if hosted is None else hosted.look(rows)).float()

    def streaming(self) -> AbstractContextManager[object]:
        """Whatever is launched within goes into the tables' stream."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    @contextmanager
    def reading(self) -> Iterator[int]:
        """Whatever is launched within reads one version, which it is told."""
        with self.lock, self.streaming():
            yield self.version

    def write(self, changes: Mapping[str, tuple[torch.Tensor, torch.Tensor]], version: int) -> None:
        """Replace rows int64 (n,) of tables by values (n, width), all at once for whoever reads."""
        with self.reading(), torch.no_grad():
            if self.stream is not None and self.hosted:
                self.stream.synchronize()  # what was launched before still reads host memory
            for name, (rows, values) in changes.items():
                if name in self.hosted:
                    self.hosted[name].write(rows, values)
                    continue
                table = self.of(name)
                table[rows.to(table.device)] = values.to(table.device, table.dtype)
            self.version = version

    def _key(self, name: str) -> str:
        return f"table_{self.names.index(name)}"


def _needed(sizes: Sequence[int], whole: int) -> float:
    """Bytes, if so many tables are moved as a whole and the rest have full caches."""
    return sum(sizes[:whole]) + _CACHED_SHARE * sum(sizes[whole:])
