"""Graphs behind the gateway's dialects: the same lists by every door, wrong inputs named, lost clients cancelled."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.graph.peer import EnginePeer, FakePeer, silence

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def graph(run: Path, engine: EnginePeer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from genrecall.graph.build import GraphConfig, build

    config = GraphConfig(engines=[str(engine.socket)], deadline_ms=20_000.0)
    return build(run / "bundle", tmp_path_factory.mktemp("g") / "graph", config).path


@contextlib.asynccontextmanager
async def serving(graph: Path, engines: list[str] | None = None):
    from genrecall.graph.server.app import graph_app, open_models
    from genrecall.serve.config import ServeConfig
    from genrecall.serve.metrics import Metrics

    with ThreadPoolExecutor(4) as threads:
        models = open_models({"recall": graph}, engines or [], threads)
        app = graph_app(models, ServeConfig(state=Path(), worker=None), Metrics())
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            yield client, models["recall"]


def test_both_dialects_answer_alike(graph: Path, run: Path):
    from genrecall import Recommender

    histories = [["i1", "i2", "i1"], ["i3"]]
    shop = Recommender.load(run / "bundle", device="cpu")
    wanted = [[item.item_id for item in shop.recommend(history, k=10).items] for history in histories]

    async def ask():
        async with serving(graph) as (client, _):
            rows = await client.post(
                "/v1/models/recall:predict", json={"instances": [{"history": h} for h in histories]}
            )
            columns = await client.post(
                "/v1/models/recall/versions/1:predict", json={"inputs": {"history": histories, "k": 3}}
            )
            tensor = {"name": "history", "datatype": "BYTES", "shape": [2, 3], "data": [*histories[0], "i3", "", ""]}
            infer = await client.post("/v2/models/recall/infer", json={"inputs": [tensor], "id": "one"})
            # One row alone: two may meet in a batch of the engine or miss it, and then the last bit differs.
            alone = {**tensor, "shape": [1, 3], "data": histories[0]}
            outputs = [{"name": "score", "parameters": {"binary_data": True}}]
            text = await client.post("/v2/models/recall/infer", json={"inputs": [alone]})
            binary = await client.post("/v2/models/recall/infer", json={"inputs": [alone], "outputs": outputs})
            return rows, columns, infer, text, binary

    rows, columns, infer, text, binary = asyncio.run(ask())
    assert [row["item_id"] for row in rows.json()["predictions"]] == wanted
    assert [row["status"] for row in rows.json()["predictions"]] == [0, 0]
    assert columns.json()["outputs"]["item_id"] == [items[:3] for items in wanted]
    told = {output["name"]: output for output in infer.json()["outputs"]}
    assert infer.json()["id"] == "one"
    assert told["item_id"]["data"] == [*wanted[0], *wanted[1]]
    assert told["score"]["datatype"] == "FP32"
    size = int(binary.headers["inference-header-content-length"])
    scores = np.frombuffer(binary.content[size:], "<f4")
    wanted_scores = next(output["data"] for output in text.json()["outputs"] if output["name"] == "score")
    np.testing.assert_array_equal(scores, np.array(wanted_scores, np.float32))


def test_what_is_told_of_a_graph(graph: Path):
    async def ask():
        async with serving(graph) as (client, _):
            paths = ["/v1/models/recall", "/v1/models/recall/metadata", "/v2/models/recall", "/v2/models/recall/ready",
                     "/v2/health/ready", "/health/live", "/metrics", "/v2"]  # fmt: skip
            return [await client.get(path) for path in paths]

    status, metadata, model, *others = asyncio.run(ask())
    assert status.json()["model_version_status"][0]["state"] == "AVAILABLE"
    signature = metadata.json()["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["history"]["dtype"] == "DT_STRING"
    assert {"name": "score", "datatype": "FP32", "shape": [-1, -1]} in model.json()["outputs"]
    assert [other.status_code for other in others] == [200] * len(others)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"inputs": {"history": [[1]]}}, "texts are needed"),
        ({"inputs": {"history": ["i1"]}}, "string of shape [-1, -1], not [1]"),
        ({"inputs": {"history": [["i1"]], "k": 1000}}, "k must be 1 to 40"),
        ({"inputs": {"history": [["i1"]], "k": "a"}}, "numbers are needed"),
        ({"inputs": {"k": 3}}, "input history is missing"),
        ({"inputs": {"history": [["i1"]], "other": 1}}, "no input other"),
        ({"inputs": {"history": [["i1"], "i2"]}}, "beside each other"),
        ({"instances": [{"history": ["i1"], "k": 1}, {"history": ["i1"], "k": 2}]}, "one for all instances"),
        ({"instances": [{"history": ["i1"]}, {"k": 2}]}, "missing in some instances"),
        ({"instances": [{"history": {"b64": "?"}}]}, "UTF-8"),
        ({"instances": [], "inputs": []}, "length >= 1"),
        ({}, "either instances"),
        ({"inputs": {"history": [["i1"]]}, "signature_name": "other"}, "the only signature"),
    ],
)
def test_wrong_requests_say_what_is_wrong(graph: Path, body, detail):
    async def ask():
        async with serving(graph) as (client, _):
            return await client.post("/v1/models/recall:predict", json=body)

    answer = asyncio.run(ask())
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]


def test_a_lost_client_is_cancelled_down_to_the_engine(graph: Path, tmp_path: Path):
    with FakePeer(tmp_path / "s", silence) as peer:

        async def ask():
            async with serving(graph, [str(peer.socket)]) as (_, model):
                task = asyncio.create_task(model.run({"history": np.array([["i1"]], object)}))
                while not peer.asked:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                while not peer.cancelled:
                    await asyncio.sleep(0.01)

        asyncio.run(asyncio.wait_for(ask(), 30))
        assert peer.cancelled == [peer.asked[0]["id"]]


def test_without_an_engine_it_is_not_ready_and_says_so(graph: Path, tmp_path: Path):
    async def ask():
        async with serving(graph, [str(tmp_path / "nobody")]) as (client, _):
            ready = await client.get("/health/ready")
            body = {"inputs": {"history": [["i1"]], "deadline_ms": 100}}
            return ready, await client.post("/v1/models/recall:predict", json=body)

    ready, answer = asyncio.run(ask())
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["no engine of recall can be reached"])
    assert answer.json()["outputs"]["status"] == [2]


def test_the_timeout_parameter_is_the_deadline(graph: Path, tmp_path: Path):
    with FakePeer(tmp_path / "s", silence) as peer:

        async def ask():
            async with serving(graph, [str(peer.socket)]) as (client, _):
                tensor = {"name": "history", "datatype": "BYTES", "shape": [1, 1], "data": ["i1"]}
                body = {"inputs": [tensor], "parameters": {"timeout": 50_000}}
                return await client.post("/v2/models/recall/infer", json=body)

        told = {output["name"]: output["data"] for output in asyncio.run(ask()).json()["outputs"]}
        assert told["status"] == [1]
        assert peer.asked[0]["timeout_s"] == pytest.approx(0.05, abs=0.05)
