"""Runs a genrecall command that must not outlive whoever started it: the end of standard input is the end of it.

A killed parent closes its end of the pipe, whatever killed it; then the command is told to stop and drains as always.
This is no process in between: one of those could be killed alone, and leave behind what it was to guard.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_watch, daemon=True).start()
    runpy.run_module("genrecall", run_name="__main__")
