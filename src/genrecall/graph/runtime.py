"""TensorFlow, imported so that it leaves GPUs alone: their memory belongs to the engine."""

from __future__ import annotations

import os
from types import ModuleType

from genrecall.errors import DependencyError

_READY: list[ModuleType] = []


def tensorflow() -> ModuleType:
    """The module, with every GPU hidden from it.

    A process that has initialised TensorFlow's devices itself keeps them: then they are its own decision.

    Raises:
        DependencyError: it is not installed.
    """
    if not _READY:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings and errors; not what a CPU can do
        try:
            import tensorflow as tf
        except ModuleNotFoundError as error:
            if error.name != "tensorflow":
                raise
            raise DependencyError("tensorflow", extra="tf", purpose="the TensorFlow graph") from error
        if tf.config.list_physical_devices("GPU"):
            _hide(tf)
        _READY.append(tf)
    return _READY[0]


def _hide(tf: ModuleType) -> None:
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        for device in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
