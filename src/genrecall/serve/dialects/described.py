"""What the dialects ask and answer, for the OpenAPI document: shapes only, the handlers build them as plain values."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from genrecall.serve.dialects.inference import Infer
from genrecall.serve.dialects.openai import Completion
from genrecall.serve.dialects.tf_serving import Predict


class ServerMetadata(msgspec.Struct, frozen=True):
    """Of the Open Inference Protocol."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or an output; −1 is a size of the request's."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(msgspec.Struct, frozen=True):
    """Whether a model answers."""

    name: str
    ready: bool


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answered tensor; without ``data`` its bytes lie behind the JSON."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]
    data: list[str | float] | None = None
    parameters: dict[str, int] = {}


class Inferred(msgspec.Struct, frozen=True):
    """An inference answer."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, Any]
    outputs: list[Output]


class Model(msgspec.Struct, frozen=True):
    """As OpenAI's clients know models."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(msgspec.Struct, frozen=True):
    """What there is."""

    object: Literal["list"]
    data: list[Model]


class Said(msgspec.Struct, frozen=True):
    """A SID, as the assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(msgspec.Struct, frozen=True):
    """One of the n SIDs."""

    index: int
    message: Said
    finish_reason: Literal["stop"]
    logprobs: None
    sglext: dict[str, float | None]
    genrecall: dict[str, Any]


class Completed(msgspec.Struct, frozen=True):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: dict[str, int]
    genrecall: dict[str, Any]


class Predicted(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows for ``instances``, columns for ``inputs``."""

    predictions: list[dict[str, list[str | float]]] | None = None
    outputs: dict[str, list[list[str | float]]] | None = None


class ModelStatus(msgspec.Struct, frozen=True):
    """TensorFlow Serving's, and OpenAI's in one."""

    model_version_status: list[dict[str, Any]]
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


_OIP = "/v2/models/{model}"
_TF = "/v1/models/{model}"
OPERATIONS: tuple[tuple[str, str, str, type | None, type | None], ...] = (
    ("get", "/v2", "Who answers", None, ServerMetadata),
    ("get", "/v2/health/live", "The process runs", None, None),
    ("get", "/v2/health/ready", "New requests get whole answers", None, None),
    ("get", _OIP, "Inputs and outputs of a model", None, ModelMetadata),
    ("get", f"{_OIP}/versions/{{version}}", "Inputs and outputs of a model", None, ModelMetadata),
    ("get", f"{_OIP}/ready", "Whether a model answers", None, ModelReady),
    ("get", f"{_OIP}/versions/{{version}}/ready", "Whether a model answers", None, ModelReady),
    ("post", f"{_OIP}/infer", "Recommend or search, as tensors", Infer, Inferred),
    ("post", f"{_OIP}/versions/{{version}}/infer", "Recommend or search, as tensors", Infer, Inferred),
    ("get", "/v1/models", "Models, as OpenAI lists them", None, Models),
    ("post", "/v1/chat/completions", "n SIDs as chat completions", Completion, Completed),
    ("get", _TF, "A model's status", None, ModelStatus),
    ("get", f"{_TF}/metadata", "A model's signature", None, None),
    ("post", f"{_TF}:predict", "Recommend or search, as rows or columns", Predict, Predicted),
    ("post", f"{_TF}/versions/{{version}}:predict", "Recommend or search, as rows or columns", Predict, Predicted),
)
TYPES: tuple[type, ...] = tuple(
    dict.fromkeys(kind for _, _, _, asked, told in OPERATIONS for kind in (asked, told) if kind is not None)
)
BINARY = tuple(path for method, path, *_ in OPERATIONS if path.endswith("/infer"))
"""Paths whose answer may be JSON with bytes behind it."""
