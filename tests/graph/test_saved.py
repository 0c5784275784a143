"""SavedModels run in a fresh process without torch; libraries and graphs of others are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genrecall.artifacts import write_artifact
from genrecall.errors import ArtifactError, ConfigError
from tests.graph.peer import EnginePeer

pytestmark = pytest.mark.tf

FRESH = """
import json, sys
from genrecall.graph.saved import load
import numpy as np, tensorflow as tf
loaded = load(sys.argv[1])
kinds = {name: spec.dtype for name, spec in loaded.inputs.items()}
defaults = {name: tf.constant(value.tolist(), kinds[name], value.shape) for name, value in loaded.defaults.items()}
defaults["deadline_ms"] = tf.constant([20000.0])
told = []
for history in json.loads(sys.argv[2]):
    found = loaded.run(history=tf.constant(history), **defaults)
    told.append([[cell.decode() for cell in row] for row in found["item_id"].numpy().tolist()])
    assert found["status"].numpy().tolist() == [0] * len(history), found["status"]
devices = [device.device_type for device in tf.config.get_visible_devices()]
foreign = [name for name in ("torch", "transformers", "genrecall.engine.engine") if name in sys.modules]
print(json.dumps({"told": told, "devices": devices, "foreign": foreign}))
"""
ALONE = """
import sys
import tensorflow as tf
tf.load_op_library(sys.argv[1])
module = tf.saved_model.load(sys.argv[2])
found = module.signatures["serving_default"](
    history=tf.constant([["i1", "i2"]]), times=tf.zeros([0, 0], tf.int64), user_id=tf.zeros([0], tf.string),
    k=tf.constant([3]), deadline_ms=tf.constant([20000.0]),
)
assert "genrecall" not in sys.modules
print(found["status"].numpy().tolist(), found["item_id"].shape)
"""
WITHOUT = """
import sys
from genrecall.errors import GenrecallError
from genrecall.graph.build import GraphConfig, build
from genrecall.graph.retrieval import Retrieval, tf
graph = Retrieval.open(sys.argv[1], [sys.argv[2]])
items = graph.items_of(tf.constant([["i1", "i2"]]))
print(graph.recall(graph.prompts(items), k=3, deadline_ms=20000.0, exclude=items).status.numpy().tolist())
try:
    build(sys.argv[1], sys.argv[3], GraphConfig(engines=[sys.argv[2]]))
except GenrecallError as error:
    print(type(error).__name__, error)
"""


def fresh(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def graph(run: Path, engine: EnginePeer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from genrecall.graph.build import GraphConfig, build

    return build(run / "bundle", tmp_path_factory.mktemp("g") / "graph", GraphConfig(engines=[str(engine.socket)])).path


def test_a_fresh_process_answers_without_torch(graph: Path, pieces, run: Path):
    from genrecall import Recommender

    shop = Recommender.load(run / "bundle", device="cpu")
    batches = [[["i1", "i2", "i1"]], [["i3", ""], ["i4", "i5"], ["i7", "no such item"]]]
    told = json.loads(fresh(FRESH, graph, json.dumps(batches)).stdout)
    assert told["foreign"] == []
    assert told["devices"] == ["CPU"]
    for batch, lists in zip(batches, told["told"], strict=True):
        for history, items in zip(batch, lists, strict=True):
            known = [item for item in history if item in shop.items.index]
            assert items == [item.item_id for item in shop.recommend(known, k=10).items]


def test_tensorflow_alone_reads_it(graph: Path):
    from genrecall.graph.library import library_path

    assert fresh(ALONE, library_path(), graph).stdout.strip() == "[0] (1, 3)"


def test_without_a_compiler_python_answers_and_saves_nothing(run: Path, engine: EnginePeer, tmp_path: Path):
    done = fresh(
        WITHOUT,
        run / "bundle",
        engine.socket,
        tmp_path / "graph",
        CXX="no-such-compiler",
        GENRECALL_CACHE=str(tmp_path),
    )
    assert done.stdout.startswith("[0]\nCompilerError the TensorFlow operators cannot be compiled here")
    assert "warning: the TensorFlow operators cannot be compiled here" in done.stderr
    assert not (tmp_path / "graph").exists()


def test_a_library_for_another_tensorflow_is_refused(tmp_path: Path):
    from genrecall.graph import library

    with write_artifact(tmp_path / "old", kind=library.KIND, config={"tensorflow": "2.9.0"}) as writer:
        (writer.path / library.NAME).write_bytes(b"not loaded")
    with pytest.raises(ArtifactError, match="compiled for another TensorFlow") as refused:
        library.open_library(tmp_path / "old")
    assert "2.9.0" in refused.value.seen


def test_a_damaged_or_open_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil

    from genrecall.graph import library

    monkeypatch.setenv("GENRECALL_CACHE", str(tmp_path))
    kept = library.build(library._cache())  # compiled anew: what the session loaded stays untouched
    assert (tmp_path / "tensorflow-ops").stat().st_mode & 0o077 == 0
    os.chmod(kept, 0o777)
    with pytest.raises(ConfigError, match="others may write"):
        library.library_path()
    os.chmod(kept, 0o700)
    content = bytearray((kept / library.NAME).read_bytes())
    content[len(content) // 2] ^= 1
    (kept / library.NAME).write_bytes(content)
    with pytest.raises(ArtifactError):
        library.library_path()
    shutil.rmtree(kept)


def test_a_graph_of_other_operators_is_refused(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from genrecall.graph import library, saved

    monkeypatch.setattr(library, "digest_of_sources", lambda: "other")
    with pytest.raises(ArtifactError, match="other operators"):
        saved.load(graph)


def test_the_callers_operators_stand_in_between(run: Path, engine: EnginePeer, tmp_path: Path):
    from genrecall.graph.build import GraphConfig, between_of, build
    from genrecall.graph.runtime import tensorflow
    from genrecall.graph.saved import load

    tf = tensorflow()
    (tmp_path / "mine.py").write_text(
        "import tensorflow as tf\n"
        "def reverse(graph, found, inputs):\n"
        "    return tf.reverse(found.items, [1]), tf.reverse(found.scores, [1]), found.status\n"
    )
    config = GraphConfig(engines=[str(engine.socket)], deadline_ms=20_000.0, k=5)
    plain = load(build(run / "bundle", tmp_path / "plain", config).path)
    mine = load(
        build(run / "bundle", tmp_path / "mine", config, between=between_of(f"{tmp_path}/mine.py:reverse")).path
    )
    given = {
        name: tf.constant(value.tolist(), plain.inputs[name].dtype, value.shape)
        for name, value in plain.defaults.items()
    }
    history = tf.constant([["i1", "i2"], ["i3", ""]])
    one, other = (graph.run(history=history, **given)["item_id"].numpy() for graph in (plain, mine))
    assert one.tolist() == other[:, ::-1].tolist()
    with pytest.raises(ConfigError, match="cannot be read"):
        between_of(f"{tmp_path}/mine.py:forward")


def test_leaves_are_sorted_and_owned_by_the_channels_rule():
    from genrecall.graph.retrieval import _leaves

    sids = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], np.int32)
    leaves = _leaves(sids, np.array([1, 0, 3, 0]))
    assert leaves.sids.numpy().tolist() == [[0, 0], [0, 1], [1, 0]]
    assert leaves.begin.numpy().tolist() == [0, 1, 2, 4]
    assert leaves.items.numpy().tolist() == [3, 1, 2, 0]
