"""What workers with a model import: ``preload`` and several seconds of torch and transformers."""

from __future__ import annotations

import importlib
import threading

import tqdm

tqdm.tqdm.set_lock(threading.RLock())  # its own would be a semaphore of the system, left behind by whoever is killed

for _name in (
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "genrecall.serve.worker.generative",
):
    importlib.import_module(_name)

# What reading any checkpoint builds first: half a second of regular expressions.
importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("qwen3")

importlib.import_module("genrecall.serve.worker.preload")  # last: it sets aside what stands
