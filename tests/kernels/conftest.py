"""Each kernel is tested three times: its torch reference, Triton in its interpreter, Triton on a GPU."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

# Read by Triton when it is imported. On a GPU machine the kernels are compiled, and the interpreted tests are skipped.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(params=["reference", "interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the tensors of a test lie; what the contracts run on them follows from it."""
    from genrecall.kernels import dispatch

    if request.param == "cuda":
        return "cuda"
    if request.param == "interpreter":
        if importlib.util.find_spec("triton") is None:
            pytest.skip("Triton is not installed; pip install 'genrecall[gpu]'")
        if torch.cuda.is_available():
            pytest.skip("Triton compiles for the GPU of this machine")
        monkeypatch.setattr(dispatch, "choice", lambda kind: "triton")
    return "cpu"


@pytest.fixture(params=["reference", pytest.param("cuda", marks=pytest.mark.gpu)])
def fp8_device(request: pytest.FixtureRequest) -> str:
    """As ``device`` without the interpreter, which cuts off mantissa bits of fp8 instead of rounding."""
    return "cpu" if request.param == "reference" else "cuda"
