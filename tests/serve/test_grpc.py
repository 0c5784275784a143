"""The Open Inference Protocol over gRPC: the tables against Triton's, and calls over a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrecall.errors import ConfigError
from genrecall.serve.grpc.messages import HEALTH, INFERENCE, messages
from genrecall.serve.grpc.server import start
from genrecall.serve.http.keys import add
from tests.serve.world import Spoiled, World, serving

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
HISTORY = ["i0", "i8", "i3"]
OIP, CHECK = messages("inference", INFERENCE), messages("grpc.health.v1", HEALTH)


@contextlib.asynccontextmanager
async def listening(run: Path, state: Path, **settings: Any) -> AsyncIterator[tuple[World, Any]]:
    """A service with a gRPC listener, and a channel to it."""
    async with serving(run, state, **settings) as world:
        server = await start(world.service, world.gate, world.service.config, 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield world, channel
        await server.close(0)


async def call(channel: Any, name: str, /, metadata: Any = (), timeout: float = 20, **told: Any) -> Any:
    return await channel.unary_unary(
        f"/inference.GRPCInferenceService/{name}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=OIP[f"{name}Response"].FromString,
    )(OIP[f"{name}Request"](**told), metadata=metadata, timeout=timeout)


def asked(k: int = 4, **more: Any) -> dict[str, Any]:
    cells = {"bytes_contents": [item.encode() for item in HISTORY]}
    return {
        "model_name": "pipeline",
        "inputs": [
            {"name": "history", "datatype": "BYTES", "shape": [1, 3], "contents": cells},
            {"name": "k", "datatype": "INT32", "shape": [1], "contents": {"int_contents": [k]}},
        ],
        **more,
    }


def test_the_tables_are_the_public_protocol() -> None:
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient[grpc] is not installed")
    for name, message in OIP.items():
        known = theirs.DESCRIPTOR.message_types_by_name[name.partition(".")[0]]
        if "." in name:
            known = known.nested_types_by_name[name.partition(".")[2]]
        for field in message.DESCRIPTOR.fields:
            other = known.fields_by_name[field.name]
            told = (field.number, field.type, field.is_repeated)
            assert told == (other.number, other.type, other.is_repeated), f"{name}.{field.name}"
    whole = OIP["ModelInferRequest"](**asked(id="7"), parameters={"timeout": {"int64_param": 5}})
    assert theirs.ModelInferRequest.FromString(whole.SerializeToString()).parameters["timeout"].int64_param == 5


def test_it_answers_as_the_native_protocol(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(run, tmp_path) as (world, channel):
            expected = [item["item_id"] for item in (await world.recommend(history=HISTORY, k=4))["items"]]
            answer = await call(channel, "ModelInfer", **asked(id="7", outputs=[{"name": "item_id"}]))
            assert (answer.id, answer.model_name) == ("7", "pipeline")
            assert answer.outputs[0].shape == [1, 4]
            raw = answer.raw_output_contents[0]
            assert [item.encode() in raw for item in expected] == [True] * 4
            page = await call(channel, "ModelMetadata", name="generator")
            assert {tensor.name for tensor in page.inputs} == {"user_id", "query", "history", "k"}
            assert (await call(channel, "ModelReady", name="pipeline")).ready
            assert (await call(channel, "ServerLive")).live
            assert (await call(channel, "ServerReady")).ready
            assert (await call(channel, "ServerMetadata")).name == "genrecall"
            health = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=CHECK["HealthCheckResponse"].FromString,
            )
            assert (await health(CHECK["HealthCheckRequest"]())).status == 1
            world.gate.draining = True
            assert (await health(CHECK["HealthCheckRequest"]())).status == 2
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel, "ModelInfer", **asked())
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_what_is_wrong_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(run, tmp_path) as (_, channel):
            raw = {"raw_input_contents": [b"x"]}
            negative = {"name": "history", "datatype": "BYTES", "shape": [-1]}
            text = {"name": "history", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"\xff"]}}
            for told, code in (
                ({**asked(), "model_name": "none"}, "NOT_FOUND"),
                (asked(k=0), "INVALID_ARGUMENT"),
                ({**asked(), **raw}, "INVALID_ARGUMENT"),
                ({**asked(), "inputs": []}, "INVALID_ARGUMENT"),
                ({**asked(), "inputs": [negative]}, "INVALID_ARGUMENT"),
                ({**asked(), "inputs": [text]}, "INVALID_ARGUMENT"),
                ({**asked(), "outputs": [{"name": "magic"}]}, "INVALID_ARGUMENT"),
                ({**asked(), "parameters": {"timeout": {"int64_param": -1}}}, "INVALID_ARGUMENT"),
                ({**asked(), "id": "x" * (1 << 21)}, "RESOURCE_EXHAUSTED"),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(channel, "ModelInfer", **told)
                assert refused.value.code().name == code, told
            assert (await call(channel, "ModelInfer", **asked())).outputs

    asyncio.run(scenario())


def test_keys_guard_everything_but_probes(run: Path, tmp_path: Path) -> None:
    key = add(tmp_path / "keys.txt", "shop")

    async def scenario() -> None:
        async with listening(run, tmp_path / "state", keys=tmp_path / "keys.txt") as (_, channel):
            assert (await call(channel, "ServerLive")).live
            for metadata in ((), (("authorization", "Bearer gr_wrong"),)):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(channel, "ModelInfer", metadata=metadata, **asked())
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert (
                await call(channel, "ModelInfer", metadata=(("authorization", f"Bearer {key}"),), **asked())
            ).outputs

    asyncio.run(scenario())


def test_a_calls_deadline_is_the_requests(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = {"item_cf": Spoiled("item_cf", lambda: time.sleep(3))}
        async with listening(run, tmp_path, channels=slow) as (_, channel):
            answer = await call(channel, "ModelInfer", timeout=1.0, **asked())
            assert answer.parameters["degraded"].bool_param

    asyncio.run(scenario())


def test_a_taken_port_is_told(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            first = await start(world.service, world.gate, world.service.config, 0)
            with pytest.raises(ConfigError, match="cannot listen"):
                await start(world.service, world.gate, world.service.config, first.port)
            await first.close(0)

    asyncio.run(scenario())


def test_tritonclient_gets_the_native_answer(run: Path, tmp_path: Path) -> None:
    client = pytest.importorskip("tritonclient.grpc.aio", reason="tritonclient[grpc] is not installed")

    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            server = await start(world.service, world.gate, world.service.config, 0)
            triton = client.InferenceServerClient(f"127.0.0.1:{server.port}")
            assert await triton.is_server_live()
            assert await triton.is_server_ready()
            assert await triton.is_model_ready("pipeline")
            expected = [item["item_id"] for item in (await world.recommend(history=HISTORY, k=5))["items"]]
            history, k = client.InferInput("history", [1, 3], "BYTES"), client.InferInput("k", [1], "INT32")
            history.set_data_from_numpy(np.array([HISTORY], dtype=object))
            k.set_data_from_numpy(np.array([5], np.int32))
            found = await triton.infer("pipeline", [history, k], request_id="9", client_timeout=20)
            assert [cell.decode() for cell in found.as_numpy("item_id")[0]] == expected
            assert found.as_numpy("score").dtype == np.float32
            assert found.get_response().id == "9"
            with pytest.raises(client.InferenceServerException, match="no model"):
                await triton.get_model_metadata("none")
            await triton.close()
            await server.close(0)

    asyncio.run(scenario())
