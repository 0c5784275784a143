"""Tensors of the Open Inference Protocol, as JSON or as bytes behind the JSON (Triton's binary tensor extension)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from genrecall.serve.problems import Problem

INTEGERS = {"INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT32": "<u4", "UINT64": "<u8"}
_LENGTH = struct.Struct("<I")
_MOST_CELLS = 1 << 20


class Tensor(msgspec.Struct):
    """One input."""

    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=_MOST_CELLS)]], Meta(min_length=1, max_length=4)]
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


def decode_tensor(tensor: Tensor, tail: bytes) -> tuple[np.ndarray, bytes]:
    """The tensor as texts or int64, and what is left of the bytes behind the JSON.

    Raises:
        Problem: of another type, or not of its shape.
    """
    size = tensor.parameters.get("binary_data_size")
    if tensor.datatype != "BYTES" and tensor.datatype not in INTEGERS:
        raise Problem("invalid", f"input {tensor.name[:100]}: datatype BYTES or an integer")
    if prod(tensor.shape) > _MOST_CELLS:
        raise Problem("invalid", f"input {tensor.name[:100]}: at most {_MOST_CELLS} cells")
    if size is None:
        values = _flat(tensor.data or [])
    else:
        if not isinstance(size, int) or not 0 <= size <= len(tail):
            raise Problem("malformed", f"input {tensor.name[:100]}: binary_data_size does not fit the body")
        values = _unpacked(tail[:size], tensor.datatype)
        tail = tail[size:]
    kind = str if tensor.datatype == "BYTES" else int
    if len(values) != prod(tensor.shape) or any(type(value) is not kind for value in values):
        raise Problem("invalid", f"input {tensor.name[:100]}: {prod(tensor.shape)} values of its datatype are needed")
    try:
        array = np.array(values, dtype=object if kind is str else np.int64)
    except OverflowError:
        raise Problem("invalid", f"input {tensor.name[:100]}: integers of at most 64 bits") from None
    return array.reshape(tensor.shape), tail


def encode_bytes(texts: Sequence[str]) -> bytes:
    """BYTES cells, each behind its length."""
    cells = [text.encode() for text in texts]
    return b"".join(_LENGTH.pack(len(cell)) + cell for cell in cells)


def _unpacked(body: bytes, datatype: str) -> list[Any]:
    if datatype in INTEGERS:
        kind = np.dtype(INTEGERS[datatype])
        if len(body) % kind.itemsize:
            raise Problem("malformed", "binary data of an incomplete number")
        return [int(value) for value in np.frombuffer(body, kind)]
    cells, at = [], 0
    while at < len(body):
        if at + _LENGTH.size > len(body):
            raise Problem("malformed", "binary data ends within a length")
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        if at + length > len(body):
            raise Problem("malformed", "binary data ends within a text")
        try:
            cells.append(body[at : at + length].decode())
        except UnicodeDecodeError:
            raise Problem("malformed", "a text is not UTF-8") from None
        at += length
    return cells


def _flat(data: list[Any]) -> list[Any]:
    """JSON tensors may be nested as their shape, or flat."""
    flat: list[Any] = []
    waiting = [iter(data)]
    while waiting:
        for value in waiting[-1]:
            if isinstance(value, list):
                if len(waiting) >= 4:
                    raise Problem("invalid", "tensors have at most 4 dimensions")
                waiting.append(iter(value))
                break
            flat.append(value)
        else:
            waiting.pop()
    return flat
