"""TensorFlow Serving's REST dialect over graphs: rows (``instances``) or columns (``inputs``) of a graph's inputs.

As TensorFlow Serving has it, with two kindnesses: inputs with defaults may be left out, and rows of several lengths are
padded, with "" or 0.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall.graph.server.model import Model
from genrecall.serve.config import ServeConfig
from genrecall.serve.dialects.asking import MAX_REQUESTS
from genrecall.serve.dialects.inference import plain
from genrecall.serve.dialects.tf_serving import SIGNATURE, metadata_of, version_status
from genrecall.serve.http.api import json_response
from genrecall.serve.http.body import decoded, raw, while_connected
from genrecall.serve.problems import Problem

_TYPES = {"string": "DT_STRING", "int32": "DT_INT32", "int64": "DT_INT64", "float32": "DT_FLOAT"}


class Predict(msgspec.Struct):
    """A prediction request, in one of the two formats."""

    signature_name: str = SIGNATURE
    instances: Annotated[list[Any], Meta(min_length=1, max_length=MAX_REQUESTS)] | None = None
    inputs: Any = None


class GraphRest:
    """Handlers over graphs by name."""

    def __init__(self, models: Mapping[str, Model], config: ServeConfig) -> None:
        self._models, self._config = models, config

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/models/{model}:predict", self.predict, methods=["POST"]),
            Route("/v1/models/{model}/versions/{version}:predict", self.predict, methods=["POST"]),
            Route("/v1/models/{model}/metadata", self.metadata, methods=["GET"]),
            Route("/v1/models/{model}", self.status, methods=["GET"]),
        ]

    async def status(self, request: Request) -> Response:
        """Whether the graph is available."""
        model_of(self._models, request)
        return json_response(version_status("1"))

    async def metadata(self, request: Request) -> Response:
        """The signature."""
        model = model_of(self._models, request)
        sides = {"inputs": model.loaded.inputs, "outputs": model.loaded.outputs}
        signature = {side: {name: _info(spec) for name, spec in specs.items()} for side, specs in sides.items()}
        return json_response(metadata_of(model.name, signature))

    async def predict(self, request: Request) -> Response:
        """Run the graph once for all rows."""
        model = model_of(self._models, request)
        asked = decoded(await raw(request, self._config.max_body_bytes, self._config.body_s), Predict)
        if asked.signature_name != SIGNATURE:
            raise Problem("invalid", f"the only signature is {SIGNATURE}")
        if (asked.instances is None) == (asked.inputs is None):
            raise Problem("invalid", "either instances (rows) or inputs (columns)")
        columns = _columns(model, asked.instances) if asked.instances is not None else _named(model, asked.inputs)
        given = {name: _array(model, name, value) for name, value in columns.items()}
        found = await while_connected(request, model.run(given))
        if asked.instances is None:
            told = {name: _nested(array) for name, array in found.items()}
            return json_response({"outputs": told if len(told) > 1 else next(iter(told.values()))})
        if any(array.ndim == 0 or len(array) != len(asked.instances) for array in found.values()):
            raise Problem("invalid", "these outputs have no row for each instance; ask with inputs")
        rows = [{name: _nested(array[row]) for name, array in found.items()} for row in range(len(asked.instances))]
        return json_response({"predictions": [row if len(row) > 1 else next(iter(row.values())) for row in rows]})


def model_of(models: Mapping[str, Model], request: Request) -> Model:
    """The graph that the address names.

    Raises:
        Problem: there is none.
    """
    name = request.path_params["model"]
    if name not in models:
        raise Problem("not_found", f"no model {name[:100]}; there are {', '.join(models)}")
    return models[name]


def _named(model: Model, given: Any) -> dict[str, Any]:
    """Inputs by name; a bare value is the only input that must be given."""
    if isinstance(given, dict) and set(given) != {"b64"}:
        return given
    needed = [name for name in model.loaded.inputs if name not in model.loaded.defaults]
    if len(needed) != 1:
        raise Problem("invalid", f"inputs by name: {', '.join(sorted(model.loaded.inputs))}")
    return {needed[0]: given}


def _columns(model: Model, instances: list[Any]) -> dict[str, Any]:
    """Rows as columns; what the whole call has once must be alike in all rows that say it."""
    rows = [_named(model, instance) for instance in instances]
    columns: dict[str, Any] = {}
    for name in {name: None for row in rows for name in row}:
        values = [row[name] for row in rows if name in row]
        spec = model.loaded.inputs.get(name)
        if spec is not None and spec.shape.rank and spec.shape[0] is not None:
            if any(value != values[0] for value in values):
                raise Problem("invalid", f"input {name[:100]} is one for all instances")
            columns[name] = values[0]
        elif len(values) != len(rows):
            raise Problem("invalid", f"input {name[:100]} is missing in some instances")
        else:
            columns[name] = values
    return columns


def _array(model: Model, name: str, value: Any) -> np.ndarray:
    spec = model.loaded.inputs.get(name)
    texts = spec is not None and spec.dtype.name == "string"
    flat, shape = _padded(value, "" if texts else 0)
    kinds: tuple[type, ...] = (str,) if texts else (int, float, bool)
    if any(not isinstance(cell, kinds) for cell in flat):
        raise Problem("invalid", f"input {name[:100]}: {'texts' if texts else 'numbers'} are needed")
    try:
        return np.array(flat, dtype=object if texts else None if flat else np.float64).reshape(shape)
    except (ValueError, OverflowError):
        raise Problem("invalid", f"input {name[:100]}: numbers of at most 64 bits") from None


def _padded(value: Any, padding: Any, depth: int = 0) -> tuple[list[Any], list[int]]:
    """The cells of nested lists and their shape, shorter lists padded."""
    if isinstance(value, dict):
        return [_bytes(value)], []
    if not isinstance(value, list):
        return [value], []
    if depth == 4:
        raise Problem("invalid", "tensors have at most 4 dimensions")
    parts = [_padded(part, padding, depth + 1) for part in value]
    ranks = {len(shape) for _, shape in parts}
    if len(ranks) > 1:
        raise Problem("invalid", "lists and single values cannot stand beside each other")
    shape = [max(sizes) for sizes in zip(*(shape for _, shape in parts), strict=True)]
    if len(parts) * int(np.prod(shape)) > 1 << 20:
        raise Problem("invalid", f"at most {1 << 20} cells")
    cells: list[Any] = []
    for flat, own in parts:
        if own == shape:
            cells += flat
        else:
            whole = np.full(shape, padding, dtype=object)
            whole[tuple(slice(0, size) for size in own)] = np.array(flat, dtype=object).reshape(own)
            cells += whole.reshape(-1).tolist()
    return cells, [len(parts), *shape]


def _bytes(value: dict[str, Any]) -> str:
    try:
        return base64.b64decode(value["b64"], validate=True).decode()
    except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
        raise Problem("invalid", 'texts, or {"b64": "…"} of UTF-8') from None


def _nested(array: np.ndarray) -> Any:
    flat = plain(array.reshape(-1))
    return flat[0] if array.ndim == 0 else np.array(flat, dtype=object).reshape(array.shape).tolist()


def _info(spec: Any) -> dict[str, Any]:
    sizes = [] if spec.shape.rank is None else [-1 if size is None else size for size in spec.shape]
    shape = {"dim": [{"size": str(size), "name": ""} for size in sizes], "unknown_rank": spec.shape.rank is None}
    return {"dtype": _TYPES.get(spec.dtype.name, f"DT_{spec.dtype.name.upper()}"), "tensor_shape": shape, "name": ""}
