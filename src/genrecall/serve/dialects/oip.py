"""The Open Inference Protocol, version 2, over HTTP: what Triton, KServe and their clients speak.

Inputs ``user_id``, ``query`` BYTES (N), ``history`` BYTES (N, T) with empty strings as padding, ``k`` INT32 (1); all
optional, but one of the first three. Outputs ``item_id``, ``title``, ``sid`` BYTES and ``score`` FP32, (N, k), padded
with empty strings and the lowest float. ``parameters.timeout`` is Triton's, in microseconds. Tensors may be binary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall import __version__
from genrecall.serve.dialects.asking import MODELS, answer_all, channels_of, request_of
from genrecall.serve.dialects.inference import Infer, infer_response, inputs_of, read_infer, timeout_us
from genrecall.serve.http.api import json_response
from genrecall.serve.http.body import while_connected
from genrecall.serve.problems import Problem
from genrecall.serve.schema import Answer, Item, Recommend, Search
from genrecall.serve.service import Service

_LOWEST = float(np.finfo(np.float32).min)
_INPUTS = (("user_id", "BYTES", [-1]), ("query", "BYTES", [-1]), ("history", "BYTES", [-1, -1]), ("k", "INT32", [1]))
_OUTPUTS: dict[str, Callable[[Item], str | float]] = {
    "item_id": lambda item: item.item_id,
    "title": lambda item: item.title,
    "sid": lambda item: item.sid,
    "score": lambda item: item.score,
}


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
        return json_response(self.described(request.path_params["model"]))

    def described(self, model: str) -> dict[str, Any]:
        """A model's page.

        Raises:
            Problem: no such model.
        """
        channels_of(model)
        outputs = [
            {"name": name, "datatype": "FP32" if name == "score" else "BYTES", "shape": [-1, -1]} for name in _OUTPUTS
        ]
        return {
            "name": model,
            "versions": [self._service.releases.pick("")[0].digest],
            "platform": "genrecall",
            "inputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in _INPUTS],
            "outputs": outputs,
        }

    def is_ready(self, model: str) -> bool:
        """Whether a model answers.

        Raises:
            Problem: no such model.
        """
        channels_of(model)
        release = self._service.releases.pick("")[0]
        generates = release.worker is None or release.worker.state == "ready"
        return MODELS[model] is None or ("generative" in release.lanes and generates)

    async def model_ready(self, request: Request) -> Response:
        """Whether a model answers: 200 or 503."""
        model = request.path_params["model"]
        ready = self.is_ready(model)
        return json_response({"name": model, "ready": ready}, 200 if ready else 503)

    async def infer(self, request: Request) -> Response:
        """Recommend, or search, for N users."""
        asked, tail = await read_infer(request, self._service.config)
        requests = requests_of(asked, tail, channels_of(request.path_params["model"]))
        work = answer_all(self._service, requests, request.state.request_id)
        answers = await while_connected(request, work)
        return _response(request.path_params["model"], asked, answers, max(r.k for r in requests))


def requests_of(asked: Infer, tail: bytes, channels: list[str] | None) -> list[Recommend | Search]:
    """The native requests of N rows; ``tail`` holds the binary tensors.

    Raises:
        Problem: tensors that do not fit each other, or bounds that are not kept.
    """
    arrays = inputs_of(asked, tail, {name for name, _, _ in _INPUTS})
    for tensor in asked.inputs:
        if (tensor.datatype == "BYTES") == (tensor.name == "k"):
            raise Problem("invalid", f"input {tensor.name}: k is an integer, all others are BYTES")
    k = int(arrays.pop("k").reshape(-1)[0]) if "k" in arrays and arrays["k"].size else 10
    if any(array.size == 0 and len(array) == 0 for array in arrays.values()):
        raise Problem("invalid", "user_id, query and history: at least one row")
    columns = {name: array.reshape(len(array), array.size // len(array)) for name, array in arrays.items()}
    lengths = {len(array) for array in columns.values()}
    if len(lengths) != 1:
        raise Problem("invalid", "user_id, query and history need the same first dimension")
    timeout = timeout_us(asked)

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


def outputs_of(answers: Sequence[Answer], k: int) -> dict[str, np.ndarray]:
    """All outputs (N, k), padded."""
    outputs = {}
    for name, told in _OUTPUTS.items():
        padding: Any = _LOWEST if name == "score" else ""
        rows = [[told(item) for item in answer.items] for answer in answers]
        padded = [[*row, *[padding] * (k - len(row))] for row in rows]
        outputs[name] = np.array(padded, dtype=np.float32 if name == "score" else object)
    return outputs


def _response(model: str, asked: Infer, answers: Sequence[Answer], k: int) -> Response:
    return infer_response(
        asked,
        model=model,
        version=answers[0].versions.bundle,
        parameters={"degraded": any(answer.coverage.degraded for answer in answers)},
        outputs=outputs_of(answers, k),
    )
