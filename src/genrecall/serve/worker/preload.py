"""What workers without a model import, imported once: they are forked from a process that has done so (see ``child``).

Imports are nearly all of the time that starting takes. Nothing here may start threads or touch a GPU, nor import torch:
``preload_models`` does, for those that run one.
"""

from __future__ import annotations

import importlib

for _name in ("genrecall.serve.worker.classic", "genrecall.serve.release", "pyarrow.dataset"):
    importlib.import_module(_name)

# Before the first fork: a collection in a child would write to every page of this, and so copy it.
importlib.import_module("genrecall.serve.settle").settle()
