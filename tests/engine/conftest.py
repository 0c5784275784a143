"""One thread for tiny models: with more, waiting for each other takes longer than the work."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

# Read by Triton when it is imported: without a GPU its interpreter runs the kernels under the engine.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's kernels in Triton's interpreter."""
    from genrecall.kernels import dispatch

    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; pip install 'genrecall[gpu]'")
    if torch.cuda.is_available():
        pytest.skip("Triton compiles for the GPU of this machine")
    monkeypatch.setattr(dispatch, "choice", lambda kind: "triton")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
