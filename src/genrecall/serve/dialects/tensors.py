"""Tensors of the Open Inference Protocol, as JSON or as bytes behind the JSON (Triton's binary tensor extension)."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from math import prod
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from genrecall.serve.problems import Problem

INTEGERS = {"INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT32": "<u4", "UINT64": "<u8"}
_NUMBERS = {**INTEGERS, "FP32": "<f4", "FP64": "<f8", "BOOL": "|b1"}
TEXTS_AND_INTEGERS = frozenset({"BYTES", *INTEGERS})
EVERYTHING = frozenset({"BYTES", *_NUMBERS})
_LENGTH = struct.Struct("<I")
_MOST_CELLS = 1 << 20


class Tensor(msgspec.Struct):
    """One input."""

    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=_MOST_CELLS)]], Meta(min_length=1, max_length=4)]
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


def decode_tensor(
    tensor: Tensor, tail: bytes, datatypes: Collection[str] = TEXTS_AND_INTEGERS
) -> tuple[np.ndarray, bytes]:
    """The tensor as texts, int64, float64 or bool, and what is left of the bytes behind the JSON.

    Raises:
        Problem: of another type, or not of its shape.
    """
    size = tensor.parameters.get("binary_data_size")
    if tensor.datatype not in datatypes:
        raise Problem("invalid", f"input {tensor.name[:100]}: datatype {_words(datatypes)}")
    if prod(tensor.shape) > _MOST_CELLS:
        raise Problem("invalid", f"input {tensor.name[:100]}: at most {_MOST_CELLS} cells")
    if size is None:
        values = _flat(tensor.data or [])
    else:
        if not isinstance(size, int) or not 0 <= size <= len(tail):
            raise Problem("malformed", f"input {tensor.name[:100]}: binary_data_size does not fit the body")
        values = _unpacked(tail[:size], tensor.datatype)
        tail = tail[size:]
    kinds, made = _kinds(tensor.datatype)
    if len(values) != prod(tensor.shape) or any(type(value) not in kinds for value in values):
        raise Problem("invalid", f"input {tensor.name[:100]}: {prod(tensor.shape)} values of its datatype are needed")
    try:
        array = np.array(values, dtype=made)
    except OverflowError:
        raise Problem("invalid", f"input {tensor.name[:100]}: integers of at most 64 bits") from None
    return array.reshape(tensor.shape), tail


def _kinds(datatype: str) -> tuple[tuple[type, ...], Any]:
    """Python's types of a datatype's values, and numpy's of their array."""
    if datatype == "BYTES":
        return (str,), object
    if datatype == "BOOL":
        return (bool,), np.bool_
    return ((int, float), np.float64) if datatype.startswith("FP") else ((int,), np.int64)


def _words(datatypes: Collection[str]) -> str:
    if datatypes == TEXTS_AND_INTEGERS:
        return "BYTES or an integer"
    return f"one of {', '.join(sorted(datatypes))}"


def datatype_of(array: np.ndarray) -> str:
    """The protocol's name of an array's type; texts are arrays of objects."""
    if array.dtype == object:
        return "BYTES"
    return next(name for name, kind in _NUMBERS.items() if np.dtype(kind) == array.dtype)


def encode_tensor(array: np.ndarray) -> bytes:
    """An array as the bytes behind the JSON."""
    if array.dtype == object:
        return encode_bytes(array.reshape(-1).tolist())
    return array.astype(_NUMBERS[datatype_of(array)], copy=False).tobytes()


def encode_bytes(texts: Sequence[str]) -> bytes:
    """BYTES cells, each behind its length."""
    cells = [text.encode() for text in texts]
    return b"".join(_LENGTH.pack(len(cell)) + cell for cell in cells)


def _unpacked(body: bytes, datatype: str) -> list[Any]:
    if datatype in _NUMBERS:
        kind = np.dtype(_NUMBERS[datatype])
        if len(body) % kind.itemsize:
            raise Problem("malformed", "binary data of an incomplete number")
        return list(np.frombuffer(body, kind).tolist())
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
