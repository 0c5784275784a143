"""The other protocols answer what the native one does, and refuse in their own words."""

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrecall.serve.dialects.tensors import Tensor, decode_tensor, encode_bytes
from genrecall.serve.problems import Problem
from tests.serve.process import Served
from tests.serve.world import World, serving

HISTORY = ["i0", "i8", "i3"]


async def _native(world: World, **asked: Any) -> list[str]:
    return [item["item_id"] for item in (await world.recommend(**asked))["items"]]


def test_open_inference_in_json(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            history = {"name": "history", "datatype": "BYTES", "shape": [2, 3], "data": [HISTORY, ["i5", "", ""]]}
            body = {"id": "7", "inputs": [history, {"name": "k", "datatype": "INT32", "shape": [1], "data": [4]}]}
            for model, more in (("pipeline", {}), ("generator", {"channels": ["generative"]})):
                answer = (await world.client.post(f"/v2/models/{model}/infer", json=body)).json()
                told = {output["name"]: output for output in answer["outputs"]}
                assert answer["id"] == "7"
                assert told["item_id"]["shape"] == [2, 4]
                expected = await _native(world, history=HISTORY, k=4, **more)
                expected += await _native(world, history=["i5"], k=4, **more)
                assert told["item_id"]["data"] == expected
                assert all(type(score) is float for score in told["score"]["data"])
            page = (await world.client.get("/v2/models/pipeline")).json()
            assert {tensor["name"] for tensor in page["inputs"]} == {"user_id", "query", "history", "k"}
            for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/generator/ready"):
                assert (await world.client.get(path)).status_code == 200
            missing = await world.client.post("/v2/models/none/infer", json=body)
            assert (missing.status_code, type(missing.json()["error"])) == (404, str)

    asyncio.run(scenario())


def test_open_inference_in_binary(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            tail = encode_bytes(HISTORY)
            head = json.dumps(
                {
                    "inputs": [
                        {
                            "name": "history",
                            "datatype": "BYTES",
                            "shape": [1, 3],
                            "parameters": {"binary_data_size": len(tail)},
                        }
                    ],
                    "parameters": {"binary_data_output": True, "timeout": 5_000_000},
                }
            ).encode()
            size = {"inference-header-content-length": str(len(head))}
            answer = await world.client.post("/v2/models/pipeline/infer", content=head + tail, headers=size)
            length = int(answer.headers["inference-header-content-length"])
            told, rest = json.loads(answer.content[:length]), answer.content[length:]
            found = {}
            for output in told["outputs"]:
                count = output["parameters"]["binary_data_size"]
                found[output["name"]], rest = rest[:count], rest[count:]
            assert rest == b""
            assert found["item_id"] == encode_bytes(await _native(world, history=HISTORY, k=10))
            assert len(np.frombuffer(found["score"], "<f4")) == 10
            for wrong in ({"inference-header-content-length": "99999"}, {"inference-header-content-length": "3"}):
                refused = await world.client.post("/v2/models/pipeline/infer", content=head + tail, headers=wrong)
                assert refused.status_code == 400

    asyncio.run(scenario())


def test_chat_completions(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            table = world.service.releases.pick("")[0].contents
            sids = "".join(table.table.written(table.items.index[item]) for item in HISTORY)
            expected = await _native(world, history=HISTORY, k=6, channels=["generative"])
            for content in (sids, json.dumps(HISTORY), "<|im_start|> " + sids):
                body = {"model": "generator", "n": 6, "messages": [{"role": "user", "content": content}]}
                told = (await world.client.post("/v1/chat/completions", json=body)).json()
                assert [choice["genrecall"]["item_id"] for choice in told["choices"]] == expected
                assert [choice["message"]["content"] for choice in told["choices"]] == [
                    table.table.written(table.items.index[item]) for item in expected
                ]
                scores = [choice["sglext"]["sequence_score"] for choice in told["choices"]]
                assert scores == sorted(scores, reverse=True)
            asked = {"model": "pipeline", "n": 3, "user": "u3", "messages": [{"role": "user", "content": ""}]}
            told = (await world.client.post("/v1/chat/completions", json=asked)).json()
            assert [c["genrecall"]["item_id"] for c in told["choices"]] == await _native(world, user_id="u3", k=3)
            search = {"model": "pipeline", "n": 2, "messages": [{"role": "user", "content": "red candle"}]}
            told = (await world.client.post("/v1/chat/completions", json=search)).json()
            assert told["choices"][0]["genrecall"]["title"] == "red candle no 0"
            for bad in ({"n": 0}, {"n": 10**6}, {"stream": True}, {"model": "gpt"}, {"messages": []}):
                refused = await world.client.post("/v1/chat/completions", json={**asked, **bad})
                assert refused.status_code in (404, 422)
                assert refused.json()["error"]["code"] == refused.json()["code"]
            for content in ("<a_1>", "<a_999><b_0>", "[1]"):
                bad_words = {**search, "messages": [{"role": "user", "content": content}]}
                assert (await world.client.post("/v1/chat/completions", json=bad_words)).status_code == 422
            listed = (await world.client.get("/v1/models")).json()
            assert [model["id"] for model in listed["data"]] == ["pipeline", "generator"]

    asyncio.run(scenario())


def test_tensorflow_predict(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            rows = {"instances": [{"history": HISTORY, "k": 4}, {"user_id": "u3", "k": 2}]}
            told = (await world.client.post("/v1/models/pipeline:predict", json=rows)).json()["predictions"]
            assert told[0]["item_id"] == await _native(world, history=HISTORY, k=4)
            assert told[1]["item_id"] == await _native(world, user_id="u3", k=2)
            columns = {"inputs": {"user_id": ["u3", "u4"], "k": 3}}
            told = (await world.client.post("/v1/models/pipeline/versions/1:predict", json=columns)).json()["outputs"]
            assert told["item_id"] == [await _native(world, user_id=user, k=3) for user in ("u3", "u4")]
            assert np.array(told["score"]).shape == (2, 3)
            for bad in ({}, {"instances": [], "inputs": {}}, {"instances": []}, {"inputs": {"x": [1]}},
                        {"inputs": {"user_id": ["a"], "k": [1, 2]}}, {"instances": [{"k": 0}]},
                        {"instances": [{}] * 65}, {"instances": [{}], "signature_name": "other"}):  # fmt: skip
                refused = await world.client.post("/v1/models/pipeline:predict", json=bad)
                assert refused.status_code == 422, bad
                assert isinstance(refused.json()["error"], str)
            status = (await world.client.get("/v1/models/generator")).json()
            assert status["model_version_status"][0]["state"] == "AVAILABLE"
            assert (await world.client.get("/v1/models/pipeline/metadata")).json()["model_spec"]["name"] == "pipeline"

    asyncio.run(scenario())


@given(st.lists(st.text(max_size=12), max_size=8))
def test_texts_come_back_from_binary(texts: list[str]) -> None:
    tail = encode_bytes(texts)
    tensor = Tensor("history", "BYTES", [len(texts)], parameters={"binary_data_size": len(tail)})
    array, rest = decode_tensor(tensor, tail + b"more")
    assert array.tolist() == texts
    assert rest == b"more"


nested = st.recursive(st.integers() | st.text(max_size=3) | st.none(), lambda x: st.lists(x, max_size=3))


@given(
    st.sampled_from(["BYTES", "INT32", "INT64", "FP32", "?"]),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    st.none() | st.lists(nested, max_size=3),
    st.none() | st.integers(-3, 50) | st.text(max_size=2),
    st.binary(max_size=40),
)
def test_any_tensor_is_read_or_refused(kind: str, shape: list[int], data: Any, size: Any, tail: bytes) -> None:
    parameters = {} if size is None else {"binary_data_size": size}
    tensor = Tensor("x", kind, shape, data=data, parameters=parameters)
    try:
        array, _ = decode_tensor(tensor, tail)
    except Problem as problem:
        code: str | None = problem.code
    else:
        code = None
        assert list(array.shape) == shape
    assert code in (None, "invalid", "malformed")


def test_a_length_beyond_the_body_is_refused() -> None:
    tail = struct.pack("<I", 2**31) + b"abc"
    with pytest.raises(Problem):
        decode_tensor(Tensor("x", "BYTES", [1], parameters={"binary_data_size": len(tail)}), tail)


@pytest.mark.slow
def test_tritonclient_gets_the_native_answer(served: Served) -> None:
    client = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    triton = client.InferenceServerClient(f"127.0.0.1:{served.port}")
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("pipeline")
    expected = [item["item_id"] for item in served.recommend(history=HISTORY, k=5)["items"]]
    for binary in (True, False):
        history = client.InferInput("history", [1, 3], "BYTES")
        history.set_data_from_numpy(np.array([HISTORY], dtype=object), binary_data=binary)
        k = client.InferInput("k", [1], "INT32")
        k.set_data_from_numpy(np.array([5], np.int32), binary_data=binary)
        wanted = [client.InferRequestedOutput(name, binary_data=binary) for name in ("item_id", "score")]
        found = triton.infer("pipeline", [history, k], outputs=wanted, timeout=3_000_000)
        ids = [x.decode() if isinstance(x, bytes) else x for x in found.as_numpy("item_id")[0]]
        assert ids == expected
        assert found.as_numpy("score").dtype == np.float32
    with pytest.raises(client.InferenceServerException, match="no model"):
        triton.get_model_metadata("none")


@pytest.mark.slow
def test_the_openai_client_gets_the_native_answer(served: Served) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="none")
    expected = served.recommend(history=HISTORY, k=5, channels=["generative"])["items"]
    told = client.chat.completions.create(
        model="generator", n=5, messages=[{"role": "user", "content": json.dumps(HISTORY)}]
    )
    assert [choice.message.content for choice in told.choices] == [item["sid"] for item in expected]
    assert [model.id for model in client.models.list()] == ["pipeline", "generator"]
    assert client.models.retrieve("generator").id == "generator"
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="none", messages=[{"role": "user", "content": "x"}])
