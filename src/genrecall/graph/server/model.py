"""A graph that is served: arrays in, arrays out, on a thread that a lost client frees at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from genrecall.graph.runtime import tensorflow
from genrecall.graph.saved import Loaded
from genrecall.serve.problems import Problem
from genrecall.telemetry import log

_DEADLINE = "deadline_ms"


class Model:
    """One graph under a name.

    Args:
        name: in addresses.
        loaded: the graph.
        threads: to run it on; each runs one call at a time.
    """

    def __init__(self, name: str, loaded: Loaded, threads: ThreadPoolExecutor) -> None:
        self.name, self.loaded, self._threads = name, loaded, threads
        self.version = loaded.artifact.digest

    @property
    def engines(self) -> list[str]:
        """Sockets that it asks."""
        return [path.decode() for path in self.loaded.module.engines.numpy()]

    def reachable(self) -> bool:
        """Whether one of its engines accepts a connection."""
        for path in self.engines:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    return True
        return False

    async def run(self, given: Mapping[str, np.ndarray], timeout_us: int | None = None) -> dict[str, np.ndarray]:
        """The outputs for these inputs. Cancelling the task cancels the graph, and what it asked of engines.

        Args:
            given: by name; texts as arrays of objects.
            timeout_us: where the graph has an input ``deadline_ms`` that is not given.

        Raises:
            Problem: inputs that the graph does not take.
        """
        from tensorflow.python.eager import cancellation

        tf = tensorflow()
        if timeout_us is not None and _DEADLINE in self.loaded.inputs and _DEADLINE not in given:
            given = {**given, _DEADLINE: np.array([timeout_us / 1e3])}
        tensors = self._tensors(given)
        manager = cancellation.CancellationManager()
        call = manager.get_cancelable_function(self.loaded.run)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(**tensors))
        except asyncio.CancelledError:
            manager.start_cancel()
            raise
        except tf.errors.InvalidArgumentError as error:
            raise Problem("invalid", _reason(error.message)) from None
        return {name: _array(tensor) for name, tensor in found.items()}

    async def warm_up(self) -> None:
        """Run once with the smallest inputs: the first call of a graph costs what later ones do not."""
        smallest = {
            name: np.zeros([1 if size is None else size for size in spec.shape], _kind(spec))
            for name, spec in self.loaded.inputs.items()
            if name not in self.loaded.defaults
        }
        try:
            await self.run({name: np.where(a == 0, "", a) if a.dtype == object else a for name, a in smallest.items()})
        except Problem as problem:
            log(f"graph {self.name} was not warmed up: {problem.detail}")

    def _tensors(self, given: Mapping[str, np.ndarray]) -> dict[str, Any]:
        unknown = sorted(set(given) - set(self.loaded.inputs))
        if unknown:
            raise Problem("invalid", f"no input {unknown[0][:100]}; there are {', '.join(sorted(self.loaded.inputs))}")
        tensors = {}
        for name, spec in self.loaded.inputs.items():
            array = given.get(name, self.loaded.defaults.get(name))
            if array is None:
                raise Problem("invalid", f"input {name} is missing")
            tensors[name] = self._tensor(name, spec, array)
        return tensors

    def _tensor(self, name: str, spec: Any, array: np.ndarray) -> Any:
        tf = tensorflow()
        if array.ndim == 0 and spec.shape.rank == 1:
            array = array.reshape(1)
        texts = array.dtype == object
        if not spec.shape.is_compatible_with(array.shape) or texts != (spec.dtype == tf.string):
            shape = [-1 if size is None else size for size in spec.shape]
            raise Problem("invalid", f"input {name}: {spec.dtype.name} of shape {shape}, not {list(array.shape)}")
        if texts:
            cells = [str(cell).encode() for cell in array.reshape(-1)]
            return tf.reshape(tf.constant(cells, tf.string, [len(cells)]), array.shape)
        return tf.constant(array.astype(_kind(spec)))


def _reason(message: str) -> str:
    """What an operator said, without the places of the graph that TensorFlow puts around it."""
    said = message.split("[[{{")[0].strip().splitlines() or [""]
    return said[-1].strip()[:300]


def _kind(spec: Any) -> Any:
    return object if spec.dtype == tensorflow().string else spec.dtype.as_numpy_dtype


def _array(tensor: Any) -> np.ndarray:
    """A tensor as an array; texts as objects."""
    array = np.asarray(tensor.numpy())
    if array.dtype != object:
        return array
    texts = [cell.decode("utf-8", "replace") for cell in array.reshape(-1)]
    return np.array(texts, dtype=object).reshape(array.shape)
