"""The Open Inference Protocol over graphs; tensors may be binary, ``parameters.timeout`` is the graph's deadline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall import __version__
from genrecall.graph.server.model import Model
from genrecall.graph.server.rest import model_of
from genrecall.serve.config import ServeConfig
from genrecall.serve.dialects.inference import infer_response, inputs_of, read_infer, timeout_us
from genrecall.serve.dialects.tensors import EVERYTHING
from genrecall.serve.http.api import json_response
from genrecall.serve.http.body import while_connected

_DATATYPES = {
    "string": "BYTES",
    "int32": "INT32",
    "int64": "INT64",
    "float32": "FP32",
    "float64": "FP64",
    "bool": "BOOL",
}


class GraphInference:
    """Handlers over graphs by name."""

    def __init__(self, models: Mapping[str, Model], config: ServeConfig) -> None:
        self._models, self._config = models, config

    def routes(self) -> list[Route]:
        """Where they are; a graph's only version is its digest."""
        found = [Route("/v2", self.server, methods=["GET"])]
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found += [
                Route(prefix, self.metadata, methods=["GET"]),
                Route(f"{prefix}/ready", self.ready, methods=["GET"]),
                Route(f"{prefix}/infer", self.infer, methods=["POST"]),
            ]
        return found

    async def server(self, request: Request) -> Response:
        """Who answers."""
        return json_response({"name": "genrecall", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def metadata(self, request: Request) -> Response:
        """Inputs and outputs."""
        model = model_of(self._models, request)
        return json_response(
            {
                "name": model.name,
                "versions": [model.version],
                "platform": "tensorflow_savedmodel",
                "inputs": [_told(name, spec) for name, spec in model.loaded.inputs.items()],
                "outputs": [_told(name, spec) for name, spec in model.loaded.outputs.items()],
            }
        )

    async def ready(self, request: Request) -> Response:
        """Whether the graph answers with an engine behind it: 200 or 503."""
        model = model_of(self._models, request)
        ready = model.reachable()
        return json_response({"name": model.name, "ready": ready}, 200 if ready else 503)

    async def infer(self, request: Request) -> Response:
        """Run the graph."""
        model = model_of(self._models, request)
        asked, tail = await read_infer(request, self._config)
        given = inputs_of(asked, tail, model.loaded.inputs, EVERYTHING)
        found = await while_connected(request, model.run(given, timeout_us(asked)))
        return infer_response(asked, model=model.name, version=model.version, parameters={}, outputs=found)


def _told(name: str, spec: Any) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": name, "datatype": _DATATYPES.get(spec.dtype.name, spec.dtype.name.upper()), "shape": shape}
