"""Whatever stands in a file or a header that people write is read, or refused in our words: nothing else is raised."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from genrecall.artifacts import MANIFEST, open_artifact, write_artifact
from genrecall.errors import GenrecallError
from genrecall.experiment.assignment import read_layers
from genrecall.experiment.exposure import read_exposures
from genrecall.prompt.template import load_template
from genrecall.serve.dialects.asking import request_of
from genrecall.serve.dialects.oip import Infer, requests_of
from genrecall.serve.dialects.openai import Completion, Message, read_prompt
from genrecall.serve.dialects.tf_serving import rows_of
from genrecall.serve.http.body import decoded
from genrecall.serve.http.keys import Keys, add
from genrecall.serve.problems import Problem
from genrecall.sid.quantizer import read_state
from genrecall.train.mixture import parse_shares

REFUSALS = (GenrecallError, Problem)
PLACES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def keyed(*names: str) -> st.SearchStrategy[Any]:
    """JSON objects in which some keys are the ones that are looked for."""
    known = st.sampled_from(names) | st.text(max_size=4)
    return st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(known, inner, max_size=6), max_leaves=14
    )


def refused_or_read(read: Callable[[], Any]) -> None:
    try:
        read()
    except REFUSALS as refusal:
        assert str(refusal)  # noqa: PT017 - either outcome is right


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parsers")


@PLACES
@given(value=keyed("kind", "schema", "config", "parents", "files", "digest", "facts", "facts_sha256", "x"))
@example(value={"kind": "x", "schema": 1, "config": {}, "parents": {}, "files": [], "digest": "", "facts": {}})
def test_manifests(place: Path, value: Any) -> None:
    (place / "artifact").mkdir(exist_ok=True)
    (place / "artifact" / MANIFEST).write_text(json.dumps(value), encoding="utf-8")
    refused_or_read(lambda: open_artifact(place / "artifact"))


@PLACES
@given(name=st.sampled_from(["kind", "schema", "config", "parents", "files", "digest", "facts"]), value=JSON)
def test_manifests_with_one_wrong_entry(place: Path, name: str, value: Any) -> None:
    target = place / "sound"
    with write_artifact(target, kind="thing", config={"a": 1}) as writer:
        (writer.path / "file").write_text("x")
    told = json.loads((target / MANIFEST).read_text())
    (target / MANIFEST).write_text(json.dumps({**told, name: value}), encoding="utf-8")
    refused_or_read(lambda: open_artifact(target, kind="thing"))


@PLACES
@given(text=st.text(max_size=80) | st.sampled_from(["item = 3", "item = '{sid}'\nhead = 1", "[profile]\nnames = 1"]))
@example(text="[tasks]\nnames = []")
@example(text="profile = 1")
@example(text="item = ['{sid}']")
def test_prompt_templates(place: Path, text: str) -> None:
    (place / "template.toml").write_text(text, encoding="utf-8", newline="")
    refused_or_read(lambda: load_template(place / "template.toml"))


@PLACES
@given(data=st.binary(max_size=40))
def test_files_that_are_no_text(place: Path, data: bytes) -> None:
    (place / "bytes.toml").write_bytes(data)
    refused_or_read(lambda: load_template(place / "bytes.toml"))
    refused_or_read(lambda: read_layers(place / "bytes.toml"))
    refused_or_read(lambda: Keys(place / "bytes.toml"))


@PLACES
@given(text=st.text(alphabet="abn_=,:;.0123456789-e ", max_size=40))
def test_mixtures(text: str) -> None:
    refused_or_read(lambda: parse_shares(text))


@PLACES
@given(text=st.text(max_size=60) | st.sampled_from(["[[layers]]\nname = 1", "layers = 1", "[[layer]]\narms = 3"]))
def test_experiments(place: Path, text: str) -> None:
    (place / "layers.toml").write_text(text, encoding="utf-8", newline="")
    refused_or_read(lambda: read_layers(place / "layers.toml"))


@PLACES
@given(lines=st.lists(JSON.map(json.dumps) | st.text(max_size=20), max_size=4))
def test_exposure_logs(place: Path, lines: list[str]) -> None:
    (place / "exposures.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    refused_or_read(lambda: list(read_exposures(place / "exposures.jsonl")))


@PLACES
@given(text=st.text(max_size=80))
def test_key_files(place: Path, text: str) -> None:
    (place / "keys").write_text(text, encoding="utf-8", newline="")
    refused_or_read(lambda: Keys(place / "keys"))


@PLACES
@given(header=st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"Basic {text}"))
def test_no_header_opens_the_door(place: Path, header: str) -> None:
    file = place / "real-keys"
    if not file.exists():
        add(file, "holder")
    assert Keys(file).holder(header) is None


@PLACES
@given(data=st.binary(max_size=60) | st.tuples(st.integers(0, 2**63), JSON).map(
    lambda parts: parts[0].to_bytes(8, "little") + json.dumps(parts[1]).encode()
))  # fmt: skip
def test_quantiser_files(place: Path, data: bytes) -> None:
    (place / "quantizer.safetensors").write_bytes(data)
    refused_or_read(lambda: read_state(place / "quantizer.safetensors"))


@PLACES
@given(columns=st.dictionaries(st.sampled_from(["user_id", "history", "query", "k", "x"]), JSON, max_size=4))
def test_tensorflow_columns(columns: dict[str, Any]) -> None:
    refused_or_read(lambda: rows_of(columns))


@PLACES
@given(value=keyed("inputs", "name", "datatype", "shape", "data", "outputs", "parameters", "user_id", "BYTES"))
@example(value={"inputs": [{"name": "k", "datatype": "INT32", "shape": [0], "data": []}]})
@example(value={"inputs": [{"name": "k", "datatype": "BYTES", "shape": [1], "data": ["x"]},
                           {"name": "user_id", "datatype": "BYTES", "shape": [1], "data": ["u"]}]})  # fmt: skip
@example(value={"inputs": [{"name": "history", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]}]})
@example(value={"inputs": [{"name": "user_id", "datatype": "BYTES", "shape": [0], "data": []}]})
@example(value={"inputs": [{"name": "user_id", "datatype": "INT64", "shape": [1, 1, 1], "data": [[[7]]]}]})
def test_inference_requests(value: Any) -> None:
    body = json.dumps(value).encode()
    refused_or_read(lambda: requests_of(decoded(body, Infer), b"", None))


@PLACES
@given(k=st.integers(-3, 2000), user=st.none() | st.text(max_size=130), query=st.none() | st.text(max_size=20))
def test_requests_of_other_dialects_keep_the_native_bounds(k: int, user: str | None, query: str | None) -> None:
    refused_or_read(lambda: request_of(user_id=user, query=query, k=k))


def test_prompts_of_chats(run: Path, tmp_path: Path) -> None:
    from tests.serve.world import serving

    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            release = world.service.releases.pick("")[0]

            @PLACES
            @given(text=st.text(max_size=40) | st.text(alphabet='<>ab_0123456789[]",', max_size=40))
            @example(text="<a_1><b_2>")
            @example(text="[" * 2000)
            @example(text='["i1", 3]')
            def read(text: str) -> None:
                asked = Completion(model="pipeline", messages=[Message(role="user", content=text)])
                refused_or_read(lambda: read_prompt(asked, release))

            read()

    asyncio.run(scenario())
