"""Models on disk: HF directories with safetensors, nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from genrecall.errors import ArtifactError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars, which would cut through ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save_model(model: PreTrainedModel, directory: Path | str) -> None:
    """Write ``config.json`` and ``model.safetensors``; readable by any HF tool."""
    model.config.use_cache = True
    with quiet():
        model.save_pretrained(directory)


def load_model(
    directory: Path | str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """Read a model that ``save_model`` (or HF) wrote; evaluation mode, sdpa attention."""
    from transformers import AutoModelForCausalLM

    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise ArtifactError(
            f"there is no model in {directory}",
            seen="no config.json",
            allowed="a model directory, as `genrecall train` writes it",
            fix="run `genrecall train`, or correct the path",
        )
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    return model.to(device).eval()  # type: ignore[arg-type]
