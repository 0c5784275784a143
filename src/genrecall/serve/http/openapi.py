"""The native API and the dialects as OpenAPI 3.1, made from the wire types themselves."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall import __version__
from genrecall.serve.dialects import described
from genrecall.serve.dialects.asking import MODELS
from genrecall.serve.http.gate import OPEN
from genrecall.serve.problems import STATUS
from genrecall.serve.schema import Answer, Events, EventsStored, Explained, ItemPage, Rank, Ranked, Recommend, Search

PATH = "/openapi.json"
_TYPES = (
    Recommend, Search, Rank, Ranked, Events, EventsStored, Answer, Explained, ItemPage, *described.TYPES,
)  # fmt: skip
_NAMES: dict[str, dict[str, Any]] = {"model": {"type": "string", "enum": list(MODELS)}}
_OPTIONAL: dict[str, list[dict[str, Any]]] = {
    "/v1/users": [{"name": "prefix", "in": "query", "schema": {"type": "string", "maxLength": 120}}],
    "/v1/events": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,98}[!-~])?$"},
        }
    ],
}
_OPERATIONS: tuple[tuple[str, str, str, type | None, type | None], ...] = (
    ("post", "/v1/recommend", "Which items next", Recommend, Answer),
    ("post", "/v1/search", "Which items a text asks for", Search, Answer),
    ("post", "/v1/rank", "In which order a user would want given items", Rank, Ranked),
    ("post", "/v1/events", "Store events; answered when they are on disk", Events, EventsStored),
    ("get", "/v1/items/{item_id}", "What is known of an item", None, ItemPage),
    ("get", "/v1/explain/{request_id}", "Why an answer was as it was", None, Explained),
    ("get", "/v1/users", "Users whose ids begin with a prefix", None, None),
    ("get", "/v1/users/{user_id}", "A user's history and profile", None, None),
    ("delete", "/v1/users/{user_id}", "Erase all that is known of a user", None, None),
    ("get", "/v1/sids", "How the codes are used", None, None),
    ("get", "/v1/sids/items", "Items whose SIDs begin with a prefix", None, None),
    ("get", "/v1/neighbours/{item_id}", "An item's neighbours by SID and by vector", None, None),
    ("get", "/v1/data", "What the items are like, and what their import found", None, None),
    ("get", "/v1/experiments", "Running experiments and their reports", None, None),
    ("get", "/v1/releases", "Bundles in service, and what distinguishes them", None, None),
    ("get", "/health/live", "The process runs", None, None),
    ("get", "/health/ready", "New requests get whole answers", None, None),
    ("get", "/health", "Everything at a glance", None, None),
    ("get", "/metrics", "For Prometheus, as text", None, None),
)


def document() -> dict[str, Any]:
    """The whole description."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    components["Problem"] = {
        "type": "object",
        "required": ["type", "title", "status", "code", "detail", "retryable", "request_id"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string", "enum": list(STATUS)},
            "detail": {"type": "string"},
            "retryable": {"type": "boolean"},
            "request_id": {"type": "string"},
        },
    }
    paths: dict[str, dict[str, Any]] = {}
    for method, path, summary, asked, answered in (*_OPERATIONS, *described.OPERATIONS):
        paths.setdefault(path, {})[method] = _operation(path, summary, asked, answered)
    return {
        "openapi": "3.1.0",
        "info": {"title": "genrecall", "version": __version__},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
    }


def openapi_route() -> Route:
    """Where it is."""
    body = msgspec.json.encode(document())

    async def answer(request: Request) -> Response:
        return Response(body, media_type="application/json")

    return Route(PATH, answer, methods=["GET"])


def _operation(path: str, summary: str, asked: type | None, answered: type | None) -> dict[str, Any]:
    schema = {"type": "object"} if answered is None else _reference(answered)
    problem: dict[str, Any] = {
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    }
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "answered", "content": {"application/json": {"schema": schema}}},
            "default": {"description": "refused", **problem},
        },
    }
    if path in OPEN:
        found["security"] = []
    if path == "/metrics":
        found["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    if path.endswith("/ready"):
        unready: dict[str, Any] = {
            "description": "not yet, or not any more",
            "content": {"application/json": {"schema": schema}},
        }
        # Of an unknown model, or where no bundle is active yet, it is a problem document.
        unready["content"].update(problem["content"])
        found["responses"]["503"] = unready
    if path in described.BINARY:
        found["responses"]["200"]["content"]["application/octet-stream"] = {"schema": {"type": "string"}}
    if asked is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _reference(asked)}}}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _NAMES.get(name, {"type": "string", "minLength": 1})}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += _OPTIONAL.get(path, [])
    if parameters:
        found["parameters"] = parameters
    return found


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
