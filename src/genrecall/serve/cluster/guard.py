"""Runs a genrecall command that must not outlive whoever started it: the end of standard input is the end of it.

A killed parent closes its end of the pipe, whatever killed it; SIGTERM is handed on. Then the command drains as always.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading


def main(arguments: list[str]) -> int:
    """Exit status of ``genrecall ARGUMENTS``."""
    child = subprocess.Popen([sys.executable, "-m", "genrecall", *arguments], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the child by itself

    def watch() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        child.terminate()

    threading.Thread(target=watch, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
