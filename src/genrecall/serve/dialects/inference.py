"""The messages of the Open Inference Protocol, whatever answers them: inputs to arrays, arrays to outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from genrecall.serve.config import ServeConfig
from genrecall.serve.dialects.tensors import TEXTS_AND_INTEGERS, Tensor, datatype_of, decode_tensor, encode_tensor
from genrecall.serve.http.body import decoded, raw
from genrecall.serve.problems import Problem

_HEADER = "inference-header-content-length"


class Wanted(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Infer(msgspec.Struct):
    """An inference request; its tensors may lie behind it."""

    inputs: Annotated[list[Tensor], Meta(min_length=1, max_length=8)]
    outputs: Annotated[list[Wanted], Meta(max_length=8)] = []
    id: str = ""
    parameters: dict[str, Any] = {}


async def read_infer(request: Request, config: ServeConfig) -> tuple[Infer, bytes]:
    """The request and the bytes behind its JSON.

    Raises:
        Problem: it is none.
    """
    body = await raw(request, config.max_body_bytes, config.body_s)
    announced = request.headers.get(_HEADER)
    if announced is not None and (not announced.isdecimal() or int(announced) > len(body)):
        raise Problem("malformed", f"{_HEADER} does not fit the body")
    length = len(body) if announced is None else int(announced)
    return decoded(body[:length], Infer), body[length:]


def inputs_of(
    asked: Infer, tail: bytes, names: Collection[str], datatypes: Collection[str] = TEXTS_AND_INTEGERS
) -> dict[str, np.ndarray]:
    """The inputs by name.

    Raises:
        Problem: unknown names, other datatypes, or more bytes than the inputs announce.
    """
    arrays: dict[str, np.ndarray] = {}
    for tensor in asked.inputs:
        if tensor.name not in names:
            raise Problem("invalid", f"no input {tensor.name[:100]}")
        arrays[tensor.name], tail = decode_tensor(tensor, tail, datatypes)
    if tail:
        raise Problem("malformed", "more binary data than the inputs announce")
    return arrays


def timeout_us(asked: Infer) -> int | None:
    """Triton's ``timeout`` parameter, in microseconds.

    Raises:
        Problem: it is no positive integer.
    """
    timeout = asked.parameters.get("timeout")
    if timeout is not None and not (isinstance(timeout, int) and timeout > 0):
        raise Problem("invalid", "parameters.timeout: microseconds, above 0")
    return timeout


def plain(array: np.ndarray) -> list[Any]:
    """Values as JSON writes them: numbers of 32 bits with the digits that they have."""
    if array.dtype == np.float32:
        return np.array(array.astype(str), dtype=np.float64).tolist()
    return list(array.tolist())


def chosen(asked: Infer, outputs: Mapping[str, np.ndarray]) -> list[tuple[Wanted, np.ndarray]]:
    """The outputs that are asked for; all where none is named.

    Raises:
        Problem: an unknown output is asked for.
    """
    wanted = asked.outputs or [Wanted(name) for name in outputs]
    unknown = [one.name for one in wanted if one.name not in outputs]
    if unknown:
        raise Problem("invalid", f"no output {unknown[0][:100]}; there are {', '.join(outputs)}")
    return [(one, outputs[one.name]) for one in wanted]


def infer_response(
    asked: Infer, *, model: str, version: str, parameters: Mapping[str, Any], outputs: Mapping[str, np.ndarray]
) -> Response:
    """The outputs that are asked for, or all, as JSON or as bytes behind it.

    Raises:
        Problem: an unknown output is asked for.
    """
    told, tails = [], []
    for wanted, array in chosen(asked, outputs):
        one: dict[str, Any] = {"name": wanted.name, "datatype": datatype_of(array), "shape": list(array.shape)}
        if wanted.parameters.get("binary_data", asked.parameters.get("binary_data_output", False)):
            tails.append(encode_tensor(array))
            one["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            one["data"] = plain(array.reshape(-1))
        told.append(one)
    head = msgspec.json.encode(
        {"model_name": model, "model_version": version, "id": asked.id, "parameters": parameters, "outputs": told}
    )
    if not tails:
        return Response(head, media_type="application/json")
    headers = {_HEADER: str(len(head))}
    return Response(b"".join([head, *tails]), media_type="application/octet-stream", headers=headers)
