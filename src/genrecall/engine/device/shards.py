"""Which part of each weight a rank multiplies by, and where it reads that part from.

    y = Σ_r ( act(x · A_rᵀ) · B_rᵀ ),   A split by rows (queries, keys, values, gate, up), B by columns (out, down)

Tensor parallelism of Shoeybi et al. 2019 (Megatron-LM, arXiv 1909.08053). We deviate: embedding and LM head are whole
on every rank (only a level's C rows of the head are ever read), and where there are fewer KV heads than ranks, each is
kept by several ranks instead of being split.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from genrecall.engine.device.architecture import Architecture
from genrecall.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL = slice(None)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The part of rank ``rank`` of ``ranks``."""

    rank: int = 0
    ranks: int = 1

    def of(self, shape: Architecture) -> Architecture:
        """The sizes of what one rank computes.

        Raises:
            ConfigError: heads that the ranks cannot share evenly.
        """
        heads, kv_heads = shape.heads, shape.kv_heads
        if heads % self.ranks or (kv_heads % self.ranks and self.ranks % kv_heads):
            fits = [n for n in range(1, heads + 1) if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)]
            raise ConfigError(
                "the model's heads cannot be shared evenly by so many ranks",
                seen=f"{heads} heads and {kv_heads} KV heads over {self.ranks} ranks",
                allowed=", ".join(map(str, fits)),
                fix="choose another number of ranks (--tp)",
            )
        return replace(shape, heads=heads // self.ranks, kv_heads=max(kv_heads // self.ranks, 1))

    def even(self, size: int) -> slice:
        """An even part of ``size`` rows or columns.

        Raises:
            ConfigError: there is none.
        """
        if size % self.ranks:
            raise ConfigError(
                "a layer of the model cannot be shared evenly by so many ranks",
                seen=f"{size} rows over {self.ranks} ranks",
                allowed=f"a divisor of {size}",
                fix="choose another number of ranks (--tp)",
            )
        part = size // self.ranks
        return slice(part * self.rank, part * (self.rank + 1))

    def keys(self, size: int, kv_heads: int) -> slice:
        """Rows of a key or value projection of ``size`` rows that this rank's query heads need."""
        if kv_heads >= self.ranks:
            return self.even(size)
        head, width = self.rank * kv_heads // self.ranks, size // kv_heads
        return slice(head * width, (head + 1) * width)


class Source(Protocol):
    """Weights by name; every rank of a group reads the same names in the same order."""

    @property
    def names(self) -> Collection[str]:
        """Of all tensors."""
        ...

    def size(self, name: str) -> tuple[int, ...]:
        """The whole shape of one."""
        ...

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A part of one."""
        ...


class Held:
    """A state dict in memory."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        self._state = state

    @property
    def names(self) -> Collection[str]:
        """See ``Source``."""
        return self._state.keys()

    def size(self, name: str) -> tuple[int, ...]:
        """See ``Source``."""
        return tuple(self._state[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """Of one."""
        return self._state[name].dtype

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """See ``Source``."""
        return part(self._state[name].detach(), rows, columns)


class Files:
    """The safetensors of a HF directory; only what is asked for is read from the disk.

    Raises:
        ArtifactError: there are none.
    """

    def __init__(self, directory: Path | str) -> None:
        from safetensors import safe_open

        self.directory = directory = Path(directory)
        listed = sorted(directory.glob("*.safetensors"))
        index = directory / "model.safetensors.index.json"
        if index.is_file():
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            listed = [directory / name for name in sorted(set(weight_map.values()))]
        self._files: dict[str, Any] = {}
        for path in listed:
            opened = safe_open(path, framework="pt")
            names = opened.keys()
            # Old checkpoints store frequencies, which the configuration says anyway.
            self._files |= {name: opened for name in names if not name.endswith("rotary_emb.inv_freq")}
        if not self._files:
            raise ArtifactError(
                f"there are no weights in {directory}",
                seen="no *.safetensors",
                allowed="a model directory, as `genrecall train` or transformers writes it",
                fix="correct the path",
            )

    @property
    def names(self) -> Collection[str]:
        """See ``Source``."""
        return self._files.keys()

    def size(self, name: str) -> tuple[int, ...]:
        """See ``Source``."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """See ``Source``."""
        lazy = self._files[name].get_slice(name)
        return lazy[rows, columns] if len(lazy.get_shape()) == 2 else lazy[rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class Blueprint:
    """What a flat decoder is made of."""

    shape: Architecture
    source: Source

    @classmethod
    def of(cls, model: PreTrainedModel | Checkpoint) -> Blueprint:
        """Of a model in memory, or of one on the disk.

        Raises:
            ConfigError: a model that the decoder would not compute rightly.
        """
        if isinstance(model, Checkpoint):
            return cls(shape=Architecture.read(model.skeleton()), source=Files(model.directory))
        return cls(shape=Architecture.read(model), source=Held(model.state_dict()))


@dataclass(frozen=True)
class Checkpoint:
    """A HF directory whose weights are read by whoever needs them, and no more of them than it needs."""

    directory: Path

    def skeleton(self) -> PreTrainedModel:
        """The model without weights.

        Raises:
            ArtifactError: there is no model.
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        if not (self.directory / "config.json").is_file():
            raise ArtifactError(
                f"there is no model in {self.directory}",
                seen="no config.json",
                allowed="a model directory, as `genrecall train` writes it",
                fix="run `genrecall train`, or correct the path",
            )
        config = AutoConfig.from_pretrained(self.directory, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)


def part(tensor: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
    """Rows of a vector, rows and columns of a matrix."""
    return tensor[rows, columns] if tensor.dim() == 2 else tensor[rows]
