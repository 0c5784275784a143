"""The gRPC listener: the same core as the HTTP dialect, behind the same keys, rates and limits.

``ModelInfer``, ``ModelReady``, ``ModelMetadata``, ``ServerLive``, ``ServerReady``, ``ServerMetadata`` of the Open
Inference Protocol v2 (tensors raw or in ``contents``; streaming is no part of it), and ``Check`` of gRPC's health
protocol for probes. A key is sent as metadata ``authorization: Bearer KEY``; a call's own deadline counts like
``parameters.timeout``. Hanging up frees what the call holds.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from genrecall import __version__
from genrecall.errors import ConfigError, DependencyError
from genrecall.serve.config import ServeConfig
from genrecall.serve.dialects.asking import answer_all, channels_of
from genrecall.serve.dialects.inference import Infer, chosen
from genrecall.serve.dialects.oip import OpenInference, outputs_of, requests_of
from genrecall.serve.dialects.tensors import INTEGERS, datatype_of, encode_tensor
from genrecall.serve.grpc.messages import HEALTH, INFERENCE, messages
from genrecall.serve.http.gate import Gate
from genrecall.serve.problems import Problem
from genrecall.serve.schema import Answer
from genrecall.serve.service import Service
from genrecall.telemetry import log

_SERVING, _NOT_SERVING = 1, 2
_ALWAYS = ("ServerLive", "ServerReady", "Check")
_CONTENTS = {"INT8": "int", "INT16": "int", "INT32": "int", "INT64": "int64", "UINT32": "uint", "UINT64": "uint64"}
_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED", 422: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
}  # fmt: skip


class GrpcServer:
    """A started listener.

    Attributes:
        port: that it listens on.
    """

    def __init__(self, server: Any, port: int) -> None:
        self._server, self.port = server, port

    async def close(self, grace_s: float) -> None:
        """Refuse what is new and let what is on its way finish, for so long."""
        await self._server.stop(grace_s)


async def start(service: Service, gate: Gate, config: ServeConfig, port: int) -> GrpcServer:
    """Listen on ``config.host`` and ``port`` (0 takes a free one).

    Raises:
        DependencyError: grpcio is not installed.
        ConfigError: nobody can listen there.
    """
    grpc = _grpc()
    limit = ("grpc.max_receive_message_length", config.max_body_bytes)
    server = grpc.aio.server(options=[limit, ("grpc.so_reuseport", int(config.seat is not None))])
    calls = _Calls(grpc, service, gate)
    server.add_generic_rpc_handlers(calls.handlers())
    host = f"[{config.host}]" if ":" in config.host else config.host
    try:
        if config.tls is None:
            taken = server.add_insecure_port(f"{host}:{port}")
        else:
            certificate, key = (file.read_bytes() for file in config.tls)
            taken = server.add_secure_port(f"{host}:{port}", grpc.ssl_server_credentials([(key, certificate)]))
    except RuntimeError as error:
        raise ConfigError(
            "the gRPC listener cannot listen there",
            seen=f"{config.host}:{port}: {error}",
            allowed="a free port of an address of this machine",
            fix="choose another --grpc-port (0 takes a free one), or stop what listens there",
        ) from error
    await server.start()
    return GrpcServer(server, taken)


class _Calls:
    """Handlers over one service."""

    def __init__(self, grpc: Any, service: Service, gate: Gate) -> None:
        self._grpc, self._service, self._gate = grpc, service, gate
        self._dialect = OpenInference(service)
        self._oip, self._health = messages("inference", INFERENCE), messages("grpc.health.v1", HEALTH)

    def handlers(self) -> tuple[Any, ...]:
        """Of both services."""
        oip = {
            name: self._handler(name, call, self._oip[f"{name}Request"])
            for name, call in (
                ("ServerLive", self._live), ("ServerReady", self._ready), ("ModelReady", self._model_ready),
                ("ServerMetadata", self._server), ("ModelMetadata", self._metadata), ("ModelInfer", self._infer),
            )
        }  # fmt: skip
        check = {"Check": self._handler("Check", self._check, self._health["HealthCheckRequest"])}
        handler = self._grpc.method_handlers_generic_handler
        return handler("inference.GRPCInferenceService", oip), handler("grpc.health.v1.Health", check)

    def _handler(self, name: str, call: Callable[[Any, Any, str], Awaitable[Any]], request: Any) -> Any:
        async def handled(asked: Any, context: Any) -> Any:
            tracing = self._gate.tracing
            if tracing is None or name in _ALWAYS:
                return await answered(asked, context)
            sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            with tracing.request(f"grpc {name}", sent):
                return await answered(asked, context)

        async def answered(asked: Any, context: Any) -> Any:
            begun, status = time.perf_counter(), 200
            sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            request_id, counted = secrets.token_hex(8), name not in _ALWAYS
            try:
                if counted:
                    self._gate.let_in("/v2", sent.get("authorization", ""), context.peer().rpartition(":")[0])
                self._gate.inflight += counted
                try:
                    return await call(asked, context, request_id)
                finally:
                    self._gate.inflight -= counted
            except Problem as problem:
                status = problem.status
                said = problem.detail or problem.code.replace("_", " ")
                await context.abort(self._grpc.StatusCode[_CODES.get(status, "UNKNOWN")], f"{problem.code}: {said}")
            except Exception as error:  # the client gets an id and no more; the log gets the error
                status = 500
                log(f"request {request_id} failed: {type(error).__name__}: {error}")
                await context.abort(self._grpc.StatusCode.INTERNAL, f"internal: request {request_id}")
            finally:
                self._service.metrics.request.labels(f"grpc {name}", str(status)).observe(time.perf_counter() - begun)

        return self._grpc.unary_unary_rpc_method_handler(
            handled, request_deserializer=request.FromString, response_serializer=lambda said: said.SerializeToString()
        )

    async def _live(self, asked: Any, context: Any, request_id: str) -> Any:
        return self._oip["ServerLiveResponse"](live=True)

    async def _ready(self, asked: Any, context: Any, request_id: str) -> Any:
        return self._oip["ServerReadyResponse"](ready=self._is_ready())

    async def _check(self, asked: Any, context: Any, request_id: str) -> Any:
        return self._health["HealthCheckResponse"](status=_SERVING if self._is_ready() else _NOT_SERVING)

    async def _model_ready(self, asked: Any, context: Any, request_id: str) -> Any:
        return self._oip["ModelReadyResponse"](ready=self._dialect.is_ready(asked.name))

    async def _server(self, asked: Any, context: Any, request_id: str) -> Any:
        return self._oip["ServerMetadataResponse"](name="genrecall", version=__version__)

    async def _metadata(self, asked: Any, context: Any, request_id: str) -> Any:
        return self._oip["ModelMetadataResponse"](**self._dialect.described(asked.name))

    async def _infer(self, asked: Any, context: Any, request_id: str) -> Any:
        infer, tail = _read(asked)
        left_s = context.time_remaining()
        if left_s is not None:
            own = infer.parameters.get("timeout")
            left_us = max(int(left_s * 1e6), 1)
            infer.parameters["timeout"] = (
                min(own, left_us, 60_000_000) if isinstance(own, int) else min(left_us, 60_000_000)
            )
        requests = requests_of(infer, tail, channels_of(asked.model_name))
        answers = await answer_all(self._service, requests, request_id)
        return self._answer(asked.model_name, infer, answers, max(request.k for request in requests))

    def _answer(self, model: str, asked: Infer, answers: list[Answer], k: int) -> Any:
        answer = self._oip["ModelInferResponse"](
            model_name=model, model_version=answers[0].versions.bundle, id=asked.id
        )
        answer.parameters["degraded"].bool_param = any(one.coverage.degraded for one in answers)
        for wanted, array in chosen(asked, outputs_of(answers, k)):
            answer.outputs.add(name=wanted.name, datatype=datatype_of(array), shape=array.shape)
            answer.raw_output_contents.append(encode_tensor(array))
        return answer

    def _is_ready(self) -> bool:
        return (
            not self._gate.draining
            and self._service.releases.active is not None
            and self._dialect.is_ready("generator")
        )


def _read(asked: Any) -> tuple[Infer, bytes]:
    """The request as the HTTP dialect has it: its head, and the raw tensors behind it.

    Raises:
        Problem: outside of its bounds.
    """
    raw = list(asked.raw_input_contents)
    if raw and len(raw) != len(asked.inputs):
        raise Problem("malformed", "raw_input_contents: one for each input, or none")
    inputs = []
    for place, tensor in enumerate(asked.inputs):
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if raw:
            told["parameters"] = {"binary_data_size": len(raw[place])}
        else:
            told["data"] = _contents(tensor)
        inputs.append(told)
    head = {
        "id": asked.id,
        "inputs": inputs,
        "outputs": [{"name": output.name} for output in asked.outputs],
        "parameters": {name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
                       for name, value in asked.parameters.items()},
    }  # fmt: skip
    try:
        return msgspec.convert(head, Infer), b"".join(raw)
    except msgspec.ValidationError as error:
        raise Problem("invalid", str(error)) from None


def _contents(tensor: Any) -> list[Any]:
    if tensor.datatype in INTEGERS:
        return list(getattr(tensor.contents, f"{_CONTENTS[tensor.datatype]}_contents"))
    try:
        return [cell.decode() for cell in tensor.contents.bytes_contents]
    except UnicodeDecodeError:
        raise Problem("malformed", "a text is not UTF-8") from None


def _grpc() -> Any:
    # The worker is started by fork and exec: nothing of gRPC's own care for forks is needed, its warnings least of all.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        import grpc
        import grpc.aio
    except ModuleNotFoundError as error:
        raise DependencyError("grpcio", extra="grpc", purpose="the gRPC listener") from error
    return grpc
