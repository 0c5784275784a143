"""Which implementation of a kernel runs: Triton on CUDA tensors, plain torch elsewhere; neither stands in."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from genrecall.errors import DependencyError

logger = logging.getLogger(__name__)


def implementation(package: str, tensor: torch.Tensor) -> ModuleType:
    """The module ``triton`` or ``reference`` of a kernel's package, as ``tensor`` lies on a GPU or not.

    Raises:
        DependencyError: a CUDA tensor where Triton is not installed.
    """
    return import_module(f"{package}.{choice(tensor.device.type)}")


@cache
def choice(device_type: str) -> str:
    """``"triton"`` or ``"reference"``; decided and logged once a process.

    Raises:
        DependencyError: CUDA without Triton.
    """
    if device_type != "cuda":
        logger.info("kernels on %s: torch reference", device_type)
        return "reference"
    try:
        import triton
    except ImportError:
        raise DependencyError("triton", extra="gpu", purpose="the engine on a CUDA device") from None
    logger.info("kernels on cuda: triton %s", triton.__version__)
    return "triton"


def require_packed(*tensors: torch.Tensor) -> None:
    """Assert that kernels which walk these tensors without strides may do so."""
    for tensor in tensors:
        assert tensor.is_contiguous(), f"a kernel reads this without strides: {tuple(tensor.shape)}, {tensor.stride()}"
