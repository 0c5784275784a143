"""What workers import, imported once: they are forked from a process that has done so (see ``child``).

Imports are nearly all of the time that starting takes. Nothing here may start threads or touch a GPU.
"""

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
    "genrecall.serve.worker.classic",
    "genrecall.serve.release",
    "pyarrow.dataset",
):
    importlib.import_module(_name)

# What reading any checkpoint builds first: half a second of regular expressions.
importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("qwen3")

# Before the first fork: a collection in a child would write to every page of this, and so copy it.
importlib.import_module("genrecall.serve.settle").settle()
