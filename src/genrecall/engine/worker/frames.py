"""Frames on a socket: a JSON head and raw arrays, each preceded by its length. Nothing that is read is ever executed.

    | u32 bytes after this | u32 bytes of head | head: JSON | arrays, one after the other, as the head lists them |

Integers are little-endian. A head is ``{"kind": …, "id": …, …, "arrays": [[name, dtype, shape], …]}``; a reply bears
the id of its request. ``server`` lists the kinds.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrecall.errors import DataError

MOST_BYTES = 1 << 28
_TYPES = {"int32", "int64", "float32", "uint8"}
_NAMES = {np.dtype(name): name for name in _TYPES}
_SIZES = struct.Struct("<II")


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One message: its head without ``arrays``, and the arrays by name."""

    head: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def encode(frame: Frame) -> bytes:
    """A frame as bytes."""
    arrays = {name: np.asarray(array, order="C") for name, array in frame.arrays.items()}
    assert all(array.dtype in _NAMES for array in arrays.values()), "arrays are of the types that a reader accepts"
    listed = [[name, _NAMES[array.dtype], array.shape] for name, array in arrays.items()]
    head = json.dumps({**frame.head, "arrays": listed}).encode()
    body = b"".join(array.tobytes() for array in arrays.values())
    return _SIZES.pack(4 + len(head) + len(body), len(head)) + head + body


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None where the other side has closed.

    Raises:
        DataError: bytes that are not a frame.
    """
    try:
        total, head = _SIZES.unpack(await reader.readexactly(_SIZES.size))
        if not 4 + head <= total <= MOST_BYTES:
            raise _broken(f"{total} bytes, a head of {head}")
        payload = await reader.readexactly(total - 4)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise _broken(f"an end after {len(error.partial)} bytes") from error
        return None
    return decode(payload, head)


def decode(payload: bytes | bytearray, head_bytes: int) -> Frame:
    """A frame from what follows the two lengths.

    Raises:
        DataError: as ``read``.
    """
    try:
        head = json.loads(payload[:head_bytes])
        listed = head.pop("arrays")
        arrays, at = {}, head_bytes
        for name, kind, shape in listed:
            if kind not in _TYPES or not all(isinstance(size, int) and size >= 0 for size in shape):
                raise _broken(f"an array of {kind} {shape}")
            count = math.prod(shape)
            arrays[name] = np.frombuffer(payload, kind, count, at).reshape(shape)
            at += arrays[name].nbytes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(str(error)) from error
    if at != len(payload):
        raise _broken(f"{len(payload) - at} bytes too many")
    return Frame(head=head, arrays=arrays)


def _broken(seen: str) -> DataError:
    return DataError(
        "a message between engine and client is broken",
        seen=seen,
        allowed=f"frames of at most {MOST_BYTES} bytes as the module `frames` describes them",
        fix="let both sides run the same version; connect nothing else to this socket",
    )
