"""The description of the API, and answers held against it."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from genrecall.serve.http.openapi import document
from tests.serve.world import serving


def test_every_route_of_every_dialect_is_described_and_every_reference_leads_somewhere(
    run: Path, tmp_path: Path
) -> None:
    told = document()
    text = json.dumps(told)
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in told["components"]["schemas"]

    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            routes = world.gate._app._router.routes  # type: ignore[attr-defined]
            native = {re.sub(r":path", "", route.path) for route in routes if isinstance(route, Route)}
            wanted = {path for path in native if path.startswith(("/v1/", "/v2", "/health", "/metrics"))}
            assert set(told["paths"]) == wanted
            assert (await world.client.get("/openapi.json")).json() == told

    asyncio.run(scenario())


def _check(value: Any, schema: dict[str, Any], types: dict[str, Any], at: str) -> None:
    """As much of JSON Schema as msgspec writes."""
    if "$ref" in schema:
        return _check(value, types[schema["$ref"].rpartition("/")[2]], types, at)
    if "anyOf" in schema:
        failed = []
        for choice in schema["anyOf"]:
            try:
                return _check(value, choice, types, at)
            except AssertionError as error:
                failed.append(str(error))
        raise AssertionError(f"{at}: {failed}")
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
             "null": type(None)}  # fmt: skip
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), at
    assert "enum" not in schema or value in schema["enum"], at
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= set(value), at
        known = schema.get("properties", {})
        for name, inner in value.items():
            if name in known:
                _check(inner, known[name], types, f"{at}.{name}")
            elif isinstance(schema.get("additionalProperties"), dict):
                _check(inner, schema["additionalProperties"], types, f"{at}.{name}")
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for place, inner in enumerate(value):
            _check(inner, schema["items"], types, f"{at}[{place}]")
    return None


def test_answers_are_as_described(run: Path, tmp_path: Path) -> None:
    told = document()
    types = told["components"]["schemas"]

    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            answer = await world.recommend(user_id="u3", k=4)
            event = {"events": [{"user_id": "u", "item_id": "i1"}]}
            cases = (
                ("post", "/v1/recommend", "/v1/recommend", {"user_id": "nobody", "k": 50}),
                ("post", "/v1/search", "/v1/search", {"query": "lamp"}),
                ("post", "/v1/events", "/v1/events", event),
                ("get", "/v1/items/{item_id}", "/v1/items/i1", None),
                ("get", "/v1/explain/{request_id}", f"/v1/explain/{answer['request_id']}", None),
            )
            for method, path, url, body in cases:
                found = await world.client.request(method, url, json=body)
                assert found.status_code == 200
                schema = told["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
                _check(found.json(), schema, types, path)
            refused = await world.client.post("/v1/recommend", json={"k": 0})
            _check(refused.json(), types["Problem"], types, "problem")

    asyncio.run(scenario())
    with pytest.raises(AssertionError):
        _check({"items": "none"}, types["Answer"], types, "wrong")
