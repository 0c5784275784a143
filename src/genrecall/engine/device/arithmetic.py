"""In which numbers a decoder's linear layers compute: as they are, fp8 by row and channel, or int8 weights.

``y = q(x) q(W)ᵀ s_x s_Wᵀ`` with ``s = max|row| / 448`` for fp8 E4M3 (Micikevicius et al. 2022, arXiv 2209.05433). We
deviate from post-training recipes in scaling every row as it is computed: nothing is calibrated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from genrecall.errors import ConfigError
from genrecall.kernels.quantized_linear import Quantized, fp8_linear, int8_linear, quantize_fp8, quantize_int8
from genrecall.kernels.rms_norm import rms_norm, rms_norm_fp8
from genrecall.kernels.swiglu import swiglu, swiglu_fp8


class Arithmetic(Protocol):
    """Inputs of linear layers are opaque: what ``norm``, ``activate`` and ``ready`` return, ``product`` takes."""

    def matrix(self, weight: torch.Tensor) -> Any:
        """A weight (out, in) as ``product`` wants it."""
        ...

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
    ) -> tuple[Any, torch.Tensor]:
        """Normed ``x + residual`` as an input, and the sum."""
        ...

    def activate(self, gate_up: torch.Tensor) -> Any:
        """SwiGLU as an input."""
        ...

    def ready(self, x: torch.Tensor) -> Any:
        """Any (M, in) as an input."""
        ...

    def product(self, x: Any, matrix: Any, bias: torch.Tensor | None = None) -> torch.Tensor:
        """(M, out)."""
        ...

    def add(
        self, residual: torch.Tensor, x: Any, matrix: Any, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Product and residual: their sum, which may be written over the residual, and None; or each of them."""
        ...


def _each(
    self: Arithmetic, residual: torch.Tensor, x: Any, matrix: Any, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``add`` of what cannot sum while it multiplies."""
    return self.product(x, matrix, bias), residual


class Plain:
    """Weights and inputs in one floating point type."""

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """As it is."""
        return weight

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Arithmetic``."""
        return rms_norm(x, weight, epsilon, residual)

    def activate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See ``Arithmetic``."""
        return swiglu(gate_up)

    def ready(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Arithmetic``."""
        return x

    def product(self, x: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """See ``Arithmetic``."""
        return F.linear(x, matrix, bias)

    def add(
        self, residual: torch.Tensor, x: Any, matrix: Any, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Summed as the product is written, which spares the norm that follows a row to read and one to write."""
        if bias is not None:
            return self.product(x, matrix, bias), residual
        return residual.addmm_(x, matrix.t()), None


class Int8Weights(Plain):
    """int8 weights with one scale an output; inputs as they are."""

    add = _each

    def matrix(self, weight: torch.Tensor) -> Quantized:  # type: ignore[override]
        """Rounded once, when the model is loaded."""
        return quantize_int8(weight)

    def product(  # type: ignore[override]
        self, x: torch.Tensor, matrix: Quantized, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See ``Arithmetic``."""
        return int8_linear(x, matrix, bias)


class Fp8:
    """Weights and inputs in fp8, sums in float32, results in bfloat16."""

    add = _each

    def matrix(self, weight: torch.Tensor) -> Quantized:
        """Rounded once, when the model is loaded.

        Raises:
            ConfigError: a size that the tensor cores cannot take.
        """
        if weight.is_cuda and any(size % 16 for size in weight.shape):
            raise ConfigError(
                "fp8 cannot multiply by a matrix of this size",
                seen=" x ".join(map(str, weight.shape)),
                allowed="multiples of 16",
                fix='open this model with weights="plain" or weights="int8"',
            )
        return quantize_fp8(weight)

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
    ) -> tuple[Quantized, torch.Tensor]:
        """See ``Arithmetic``."""
        return rms_norm_fp8(x, weight, epsilon, residual)

    def activate(self, gate_up: torch.Tensor) -> Quantized:
        """See ``Arithmetic``."""
        return swiglu_fp8(gate_up)

    def ready(self, x: torch.Tensor) -> Quantized:
        """See ``Arithmetic``."""
        return quantize_fp8(x)

    def product(self, x: Quantized, matrix: Quantized, bias: torch.Tensor | None = None) -> torch.Tensor:
        """See ``Arithmetic``."""
        return fp8_linear(x, matrix, bias)


_BLOCK = 128
"""Rows of every product in batch-invariant mode."""


class InBlocks:
    """Another arithmetic whose products always have the same number of rows, so that the library that computes them
    always makes the same choice, and what it makes of a row does not depend on what else is in the batch (He et al.
    2025, "Defeating nondeterminism in LLM inference"). We deviate from kernels with a fixed order of summation: any
    library will do, at the price of padding and of a launch a block.
    """

    add = _each

    def __init__(self, inner: Arithmetic) -> None:
        self._inner = inner
        self.matrix, self.norm = inner.matrix, inner.norm
        self.activate, self.ready = inner.activate, inner.ready

    def product(self, x: Any, matrix: Any, bias: torch.Tensor | None = None) -> torch.Tensor:
        """See ``Arithmetic``."""
        if not isinstance(x, Quantized):
            return in_blocks(lambda part: self._inner.product(part, matrix, bias), x)

        def run(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self._inner.product(Quantized(values=values, scale=scale), matrix, bias)

        return in_blocks(run, x.values, x.scale)


def in_blocks(run: Callable[..., torch.Tensor], *rows: torch.Tensor) -> torch.Tensor:
    """``run`` of tensors (M, …), of so many rows at a time; the last ones are zeros."""
    count = len(rows[0])
    padding = -count % _BLOCK
    padded = [torch.cat([one, one.new_zeros(padding, *one.shape[1:])]) if padding else one for one in rows]
    parts = [run(*(one[at : at + _BLOCK] for one in padded)) for at in range(0, count + padding, _BLOCK)]
    return torch.cat(parts)[:count] if parts else run(*rows)


ARITHMETIC: dict[str, type[Arithmetic]] = {"plain": Plain, "fp8": Fp8, "int8": Int8Weights}
