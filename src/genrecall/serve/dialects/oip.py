"""The Open Inference Protocol, version 2, over HTTP: what Triton, KServe and their clients speak.

Inputs ``user_id``, ``query`` BYTES (N), ``history`` BYTES (N, T) with empty strings as padding, ``k`` INT32 (1); all
optional, but one of the first three. Outputs ``item_id``, ``title``, ``sid`` BYTES and ``score`` FP32, (N, k), padded
with empty strings and the lowest float. ``parameters.timeout`` is Triton's, in microseconds. Tensors may be binary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall import __version__
from genrecall.serve.dialects.asking import MODELS, answer_all, channels_of, request_of
from genrecall.serve.dialects.tensors import Tensor, decode_tensor, encode_bytes
from genrecall.serve.http.api import json_response
from genrecall.serve.http.body import decoded, raw, while_connected
from genrecall.serve.problems import Problem
from genrecall.serve.schema import Answer, Item, Recommend, Search
from genrecall.serve.service import Service

_LOWEST = float(np.finfo(np.float32).min)
_HEADER = "inference-header-content-length"
_INPUTS = (("user_id", "BYTES", [-1]), ("query", "BYTES", [-1]), ("history", "BYTES", [-1, -1]), ("k", "INT32", [1]))
_OUTPUTS: dict[str, Callable[[Item], str | float]] = {
    "item_id": lambda item: item.item_id,
    "title": lambda item: item.title,
    "sid": lambda item: item.sid,
    "score": lambda item: item.score,
}


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


class OpenInference:
    """Handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Where they are; a model's only version is the active bundle."""
        found = [Route("/v2", self.server, methods=["GET"]), Route("/v2/health/live", self.live, methods=["GET"])]
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found += [
                Route(prefix, self.metadata, methods=["GET"]),
                Route(f"{prefix}/ready", self.model_ready, methods=["GET"]),
                Route(f"{prefix}/infer", self.infer, methods=["POST"]),
            ]
        return found

    async def server(self, request: Request) -> Response:
        """Who answers."""
        return json_response({"name": "genrecall", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """The process runs its loop."""
        return json_response({"live": True})

    async def metadata(self, request: Request) -> Response:
        """Inputs and outputs of a model."""
        model = request.path_params["model"]
        channels_of(model)
        outputs = [{"name": n, "datatype": "FP32" if n == "score" else "BYTES", "shape": [-1, -1]} for n in _OUTPUTS]
        return json_response(
            {
                "name": model,
                "versions": [self._service.releases.pick("")[0].digest],
                "platform": "genrecall",
                "inputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in _INPUTS],
                "outputs": outputs,
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Whether a model answers: 200 or 503."""
        model = request.path_params["model"]
        channels_of(model)
        release = self._service.releases.pick("")[0]
        generates = release.worker is None or release.worker.state == "ready"
        ready = MODELS[model] is None or ("generative" in release.lanes and generates)
        return json_response({"name": model, "ready": ready}, 200 if ready else 503)

    async def infer(self, request: Request) -> Response:
        """Recommend, or search, for N users."""
        body = await raw(request, self._service.config.max_body_bytes, self._service.config.body_s)
        announced = request.headers.get(_HEADER)
        if announced is not None and (not announced.isdecimal() or int(announced) > len(body)):
            raise Problem("malformed", f"{_HEADER} does not fit the body")
        length = len(body) if announced is None else int(announced)
        asked = decoded(body[:length], Infer)
        requests = requests_of(asked, body[length:], channels_of(request.path_params["model"]))
        work = answer_all(self._service, requests, request.state.request_id)
        answers = await while_connected(request, work)
        return _response(request.path_params["model"], asked, answers, max(r.k for r in requests))


def requests_of(asked: Infer, tail: bytes, channels: list[str] | None) -> list[Recommend | Search]:
    """The native requests of N rows; ``tail`` holds the binary tensors.

    Raises:
        Problem: tensors that do not fit each other, or bounds that are not kept.
    """
    arrays: dict[str, np.ndarray] = {}
    for tensor in asked.inputs:
        if tensor.name not in {name for name, _, _ in _INPUTS}:
            raise Problem("invalid", f"no input {tensor.name[:100]}")
        if (tensor.datatype == "BYTES") == (tensor.name == "k"):
            raise Problem("invalid", f"input {tensor.name}: k is an integer, all others are BYTES")
        arrays[tensor.name], tail = decode_tensor(tensor, tail)
    if tail:
        raise Problem("malformed", "more binary data than the inputs announce")
    k = int(arrays.pop("k").reshape(-1)[0]) if "k" in arrays and arrays["k"].size else 10
    if any(array.size == 0 and len(array) == 0 for array in arrays.values()):
        raise Problem("invalid", "user_id, query and history: at least one row")
    columns = {name: array.reshape(len(array), array.size // len(array)) for name, array in arrays.items()}
    lengths = {len(array) for array in columns.values()}
    if len(lengths) != 1:
        raise Problem("invalid", "user_id, query and history need the same first dimension")
    timeout = asked.parameters.get("timeout")
    if timeout is not None and not (isinstance(timeout, int) and timeout > 0):
        raise Problem("invalid", "parameters.timeout: microseconds, above 0")

    def cell(name: str, row: int) -> str | None:
        return str(columns[name][row, 0]) or None if name in columns and columns[name].shape[1] else None

    return [
        request_of(
            user_id=cell("user_id", row),
            query=cell("query", row),
            history=[str(item) for item in columns["history"][row] if item] if "history" in columns else None,
            k=k,
            channels=channels,
            deadline_ms=None if timeout is None else max(timeout // 1000, 1),
        )
        for row in range(lengths.pop())
    ]


def _response(model: str, asked: Infer, answers: Sequence[Answer], k: int) -> Response:
    wanted = asked.outputs or [Wanted(name) for name in _OUTPUTS]
    outputs, tails = [], []
    for output in wanted:
        if output.name not in _OUTPUTS:
            raise Problem("invalid", f"no output {output.name[:100]}; there are {', '.join(_OUTPUTS)}")
        rows = [[_OUTPUTS[output.name](item) for item in answer.items] for answer in answers]
        padding: Any = _LOWEST if output.name == "score" else ""
        flat = [value for row in rows for value in [*row, *[padding] * (k - len(row))]]
        told: dict[str, Any] = {
            "name": output.name,
            "datatype": "FP32" if output.name == "score" else "BYTES",
            "shape": [len(answers), k],
        }
        if output.parameters.get("binary_data", asked.parameters.get("binary_data_output", False)):
            tail = np.asarray(flat, "<f4").tobytes() if output.name == "score" else encode_bytes(flat)
            told["parameters"] = {"binary_data_size": len(tail)}
            tails.append(tail)
        else:
            told["data"] = flat
        outputs.append(told)
    degraded = any(answer.coverage.degraded for answer in answers)
    head = msgspec.json.encode(
        {
            "model_name": model,
            "model_version": answers[0].versions.bundle,
            "id": asked.id,
            "parameters": {"degraded": degraded},
            "outputs": outputs,
        }
    )
    if not tails:
        return Response(head, media_type="application/json")
    headers = {_HEADER: str(len(head))}
    return Response(b"".join([head, *tails]), media_type="application/octet-stream", headers=headers)
