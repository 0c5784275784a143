"""Graphs on disk: SavedModels that are artifacts, too, so that what is loaded is what was written.

The directory is an ordinary SavedModel beside our ``manifest.json``. TensorFlow alone reads it after
``tf.load_op_library`` of the compiled operators; ``load`` does both, and checks every byte before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.artifacts import Artifact, open_artifact, write_artifact
from genrecall.errors import ArtifactError
from genrecall.graph import library
from genrecall.graph.ops import require_compiled
from genrecall.graph.runtime import tensorflow

KIND = "graph"
SIGNATURE = "serving_default"


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A graph in memory.

    Attributes:
        artifact: on disk.
        module: TensorFlow's own object; ``module.engines`` are the sockets of its engines.
        run: the signature; takes every input by name, returns a dictionary of tensors.
        inputs, outputs: tensor specifications by name.
        defaults: of inputs that may be left out.
    """

    artifact: Artifact
    module: Any
    run: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    defaults: Mapping[str, np.ndarray]

    def set_engines(self, engines: list[str]) -> None:
        """Ask these engines from now on."""
        self.module.engines.assign(engines)


def save(
    module: Any,
    function: Callable[..., Mapping[str, Any]],
    inputs: Mapping[str, Any],
    out: Path | str,
    *,
    defaults: Mapping[str, np.ndarray] | None = None,
) -> Artifact:
    """Write a function of a ``Retrieval`` as a SavedModel.

    Args:
        module: the ``Retrieval`` whose pieces the function uses (further variables as attributes of it are saved, too).
        function: keyword arguments named as ``inputs`` to a dictionary of named tensors.
        inputs: ``tf.TensorSpec`` by name.
        out: directory.
        defaults: of inputs that callers of ``genrecall graph serve`` may leave out.

    Raises:
        CompilerError: there is no compiler, so that the graph would hold Python.
    """
    tf = tensorflow()
    require_compiled()
    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in inputs.items()}
    traced = tf.function(lambda **given: dict(function(**given))).get_concrete_function(**specs)
    kept = {name: np.asarray(value) for name, value in (defaults or {}).items()}
    config = {
        "tensorflow": tf.version.VERSION,
        "operators": library.digest_of_sources(),
        "defaults": {
            name: {"dtype": specs[name].dtype.name, "shape": list(value.shape), "values": value.reshape(-1).tolist()}
            for name, value in kept.items()
        },
    }
    with write_artifact(out, kind=KIND, config=config, parents={"bundle": module.digest}) as writer:
        tf.saved_model.save(module, str(writer.path), signatures={SIGNATURE: traced})
    return open_artifact(out, kind=KIND)


def load(path: Path | str, engines: list[str] | None = None) -> Loaded:
    """Read what ``save`` wrote; imports no torch.

    Args:
        path: directory.
        engines: sockets to ask in place of the saved ones.

    Raises:
        ArtifactError: no graph, a damaged one, or one whose operators are others than these.
        CompilerError: the operators cannot be compiled here.
    """
    tf, artifact = tensorflow(), open_artifact(path, kind=KIND)
    require_compiled()
    config = artifact.manifest.config
    if config["operators"] != library.digest_of_sources():
        raise ArtifactError(
            "the graph was built with other operators than this version has",
            seen=f"operators {config['operators'][:12]}…, TensorFlow {config['tensorflow']}",
            allowed=f"operators {library.digest_of_sources()[:12]}…",
            fix="run `genrecall graph build` again with this version",
        )
    module = tf.saved_model.load(str(artifact.path))
    run = module.signatures[SIGNATURE]
    loaded = Loaded(
        artifact=artifact,
        module=module,
        run=run,
        inputs=run.structured_input_signature[1],
        outputs=run.structured_outputs,
        defaults={
            name: np.array(told["values"], dtype=object if told["dtype"] == "string" else told["dtype"]).reshape(
                told["shape"]
            )
            for name, told in config["defaults"].items()
        },
    )
    if engines:
        loaded.set_engines(engines)
    return loaded
