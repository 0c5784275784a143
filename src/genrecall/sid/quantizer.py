"""What turns item vectors into codes: the protocol, and how a fitted quantiser is stored.

A quantiser knows nothing of collisions, catalogs or titles. It keeps its input normalisation, so that a new item's raw
vector is enough to encode it years later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from genrecall.errors import ArtifactError
from genrecall.sid.normaliser import Normaliser
from genrecall.telemetry import Bar

_HEADER = "genrecall"


class Quantizer(Protocol):
    """L levels of C codes over D-dimensional vectors; rows are encoded independently of each other."""

    name: ClassVar[str]
    levels: int
    codes: int
    normaliser: Normaliser

    def fit(self, vectors: np.ndarray, *, seed: int, bar: Bar | None = None) -> Self:
        """Learn from (I, D) vectors (float16 or float32, an array or a memory map) in bounded memory."""
        ...

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes int32 (n, L)."""
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors float32 (n, D) that codes (n, ≤ L) stand for; fewer levels give a coarser answer."""
        ...

    def prefixes(self, codes: torch.Tensor) -> Iterator[torch.Tensor]:
        """Normalised rows (n, D) that the first one, two, … of the codes int64 (n, ≤ L) stand for, on the device."""
        ...

    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Cost float32 (n, C) of each code of ``level`` after the codes ``codes[:, :level]``; lower is nearer."""
        ...

    def settings(self) -> dict[str, Any]:
        """JSON-able: what ``from_state`` needs beside the tensors."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor that defines the fitted quantiser, on the CPU."""
        ...

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Self:
        """The fitted quantiser again."""
        ...


def write_state(file: Path, header: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
    """One safetensors file. All of the header goes under one key: their order within a file is not reproducible."""
    tensors = {name: tensor.contiguous() for name, tensor in sorted(state.items())}
    save_file(tensors, file, metadata={_HEADER: json.dumps(header, sort_keys=True)})


def read_state(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors of a file that ``write_state`` wrote.

    Raises:
        ArtifactError: it is no such file.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            header = json.loads(stored.metadata()[_HEADER])
            return header, {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{file} holds no quantiser",
            seen=f"{type(error).__name__}: {error}",
            allowed="a file that `genrecall sid build` wrote",
            fix="copy the artifact again from its source, or build the SIDs again",
        ) from None
