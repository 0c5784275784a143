"""Settings of the processes beside the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from genrecall.engine.config import Parallel
from genrecall.errors import ConfigError

MAX_BEAM = 1024
"""W that a request may ask for."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How engine workers run; None stands for automatic.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, …
        replicas: workers of a bundle; on CUDA each has GPUs of its own, one for each of its ranks.
        threads: of torch, in each.
        batch_rows: beams of one batch.
        beam: W; the bundle's unless given.
        ranks: devices that each worker's model is spread over.
        sequence_tokens, all_reduce: see ``Parallel``.
        start_s: a bundle that takes longer to open and warm is given up.
    """

    device: str = "auto"
    replicas: int = 1
    threads: int | None = None
    batch_rows: int | None = None
    beam: int | None = None
    ranks: int = 1
    sequence_tokens: int = 0
    all_reduce: str = "auto"
    start_s: float = 600.0

    def __post_init__(self) -> None:
        if self.replicas < 1 or (self.replicas > 1 and self.device.startswith("cuda:")):
            raise ConfigError(
                "so many replicas cannot run there",
                seen=f"--replicas {self.replicas} --device {self.device}",
                allowed="1 or more; one where a single GPU is named",
                fix="give --device cuda for one replica a GPU, or --device cpu",
            )
        # What no engine takes is refused here, and not by a worker that cannot start.
        Parallel(ranks=self.ranks, sequence_tokens=self.sequence_tokens, all_reduce=self.all_reduce)

    def device_of(self, replica: int) -> str:
        """Where a replica runs, or the first of its ranks."""
        several = self.replicas > 1 and self.device == "cuda"
        return f"cuda:{replica * self.ranks}" if several else self.device
