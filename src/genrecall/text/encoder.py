"""What turns texts into vectors, and the names under which encoders are found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from genrecall.errors import ConfigError
from genrecall.text import minilm, multilingual
from genrecall.text.hf import HfEncoder
from genrecall.text.layout import read_layout
from genrecall.text.sentence import SentenceEncoder

DEFAULT = minilm.NAME
PACKAGED = (minilm.NAME, multilingual.NAME)


class Encoder(Protocol):
    """Texts in, vectors out; nothing is fetched from a network."""

    @property
    def identity(self) -> dict[str, Any]:
        """``name``, ``version``, ``dim``, ``pooling`` and ``digest`` of the weights: equal identities, comparable
        vectors."""
        ...

    @property
    def dim(self) -> int:
        """D, the width of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, D), row ``i`` of text ``i``."""
        ...


def load_encoder(name: str | Path = DEFAULT, *, device: str = "auto", batch_size: int | None = None) -> Encoder:
    """Find an encoder; weights are read when it first encodes.

    Args:
        name: ``minilm`` (English), ``multilingual``, or a sentence-transformers or Hugging Face directory.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``; ``multilingual`` runs on the CPU only.
        batch_size: most texts in a batch; None leaves it to the budget of tokens.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError("the batch holds no text", seen=batch_size, allowed="1 or more", fix="raise --batch-size")
    if name == minilm.NAME:
        return minilm.load(device=device, batch_size=batch_size)
    if name == multilingual.NAME:
        return multilingual.MultilingualEncoder(batch_size=batch_size)
    if Path(name).is_dir():
        return _open_directory(Path(name), device, batch_size)
    raise ConfigError(
        "there is no such encoder",
        seen=name,
        allowed=f"{', '.join(PACKAGED)}, or a directory with a sentence-transformers or Hugging Face model",
        fix="correct --encoder; models are not downloaded here: save one to a directory first and name that",
    )


def _open_directory(directory: Path, device: str, batch_size: int | None) -> Encoder:
    layout = read_layout(directory)
    if layout is None:
        return SentenceEncoder(directory=directory, device=device, batch_size=batch_size)
    return HfEncoder(layout=layout, name=directory.resolve().name, version="", device=device, batch_size=batch_size)
