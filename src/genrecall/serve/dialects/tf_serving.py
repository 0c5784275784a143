"""TensorFlow Serving's REST predict: rows (``instances``) or columns (``inputs``) of users, histories and searches."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall.serve.dialects.asking import MAX_REQUESTS, answer_all, channels_of, request_of
from genrecall.serve.dialects.openai import model_object
from genrecall.serve.http.api import json_response
from genrecall.serve.http.body import decoded, raw, while_connected
from genrecall.serve.problems import Problem
from genrecall.serve.schema import MAX_HISTORY, MAX_K, Answer
from genrecall.serve.service import Service

SIGNATURE = "serving_default"
_COLUMNS = ("user_id", "history", "query", "k")


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """One user."""

    user_id: Annotated[str, Meta(max_length=120)] | None = None
    history: Annotated[list[str], Meta(max_length=MAX_HISTORY)] | None = None
    query: str | None = None
    k: Annotated[int, Meta(ge=1, le=MAX_K)] = 10


class Predict(msgspec.Struct):
    """A prediction request, in one of the two formats."""

    signature_name: str = SIGNATURE
    instances: Annotated[list[Row], Meta(max_length=MAX_REQUESTS)] | None = None
    inputs: dict[str, Any] | None = None


class TfServing:
    """Handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/models/{model}:predict", self.predict, methods=["POST"]),
            Route("/v1/models/{model}/versions/{version}:predict", self.predict, methods=["POST"]),
            Route("/v1/models/{model}/metadata", self.metadata, methods=["GET"]),
            Route("/v1/models/{model}", self.status, methods=["GET"]),
        ]

    async def status(self, request: Request) -> Response:
        """Whether the model is available (and, for OpenAI's clients, what it is)."""
        model = request.path_params["model"]
        channels_of(model)
        return json_response({**version_status("1"), **model_object(model)})

    async def metadata(self, request: Request) -> Response:
        """The signature."""
        model = request.path_params["model"]
        channels_of(model)
        text, texts = signature_info("DT_STRING", 1), signature_info("DT_STRING", 2)
        inputs = {"user_id": text, "history": texts, "query": text, "k": signature_info("DT_INT32", 1)}
        outputs = {"item_id": texts, "sid": texts, "score": signature_info("DT_FLOAT", 2)}
        signature = {"inputs": inputs, "outputs": outputs}
        return json_response(metadata_of(model, signature))

    async def predict(self, request: Request) -> Response:
        """Recommend, or search, for every row."""
        config, channels = self._service.config, channels_of(request.path_params["model"])
        asked = decoded(await raw(request, config.max_body_bytes, config.body_s), Predict)
        if asked.signature_name != SIGNATURE:
            raise Problem("invalid", f"the only signature is {SIGNATURE}")
        if (asked.instances is None) == (asked.inputs is None):
            raise Problem("invalid", "either instances (rows) or inputs (columns)")
        rows = asked.instances if asked.instances is not None else rows_of(asked.inputs or {})
        requests = [
            request_of(
                user_id=row.user_id or None,
                history=None if row.history is None else [item for item in row.history if item],
                query=row.query or None,
                k=row.k,
                channels=channels,
            )
            for row in rows
        ]
        answers = await while_connected(request, answer_all(self._service, requests, request.state.request_id))
        if asked.instances is not None:
            return json_response({"predictions": [_row(answer) for answer in answers]})
        if len({len(answer.items) for answer in answers}) > 1:
            raise Problem("invalid", "lists of several lengths do not make columns; ask with instances")
        told = [_row(answer) for answer in answers]
        return json_response({"outputs": {name: [row[name] for row in told] for name in told[0]}})


def version_status(version: str) -> dict[str, Any]:
    """A model whose only version is available."""
    told = {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return {"model_version_status": [told]}


def metadata_of(model: str, signature: dict[str, Any]) -> dict[str, Any]:
    """A model's only signature, inputs and outputs by name."""
    whole = {**signature, "method_name": "tensorflow/serving/predict"}
    return {
        "model_spec": {"name": model, "signature_name": "", "version": "1"},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: whole}}},
    }


def rows_of(columns: dict[str, Any]) -> list[Row]:
    """Columns as rows; a single value counts for every row.

    Raises:
        Problem: unknown columns, or of several lengths.
    """
    unknown = set(columns) - set(_COLUMNS)
    if unknown or not columns:
        raise Problem("invalid", f"inputs are {', '.join(_COLUMNS)}; seen {', '.join(sorted(unknown))[:200] or 'none'}")
    lengths = {len(values) for values in columns.values() if isinstance(values, list)}
    if len(lengths) > 1:
        raise Problem("invalid", "inputs need the same length")
    count = lengths.pop() if lengths else 1
    if not 1 <= count <= MAX_REQUESTS:
        raise Problem("invalid", f"1 to {MAX_REQUESTS} rows")
    rows = [
        {name: values[place] if isinstance(values, list) else values for name, values in columns.items()}
        for place in range(count)
    ]
    try:
        return msgspec.convert(rows, list[Row])
    except msgspec.ValidationError as error:
        raise Problem("invalid", str(error)) from None


def _row(answer: Answer) -> dict[str, list[Any]]:
    return {
        "item_id": [item.item_id for item in answer.items],
        "sid": [item.sid for item in answer.items],
        "score": [item.score for item in answer.items],
    }


def signature_info(kind: str, dimensions: int) -> dict[str, Any]:
    """A tensor as ``metadata`` describes it; every dimension is open."""
    shape = {"dim": [{"size": "-1", "name": ""}] * dimensions, "unknown_rank": False}
    return {"dtype": kind, "tensor_shape": shape, "name": ""}
