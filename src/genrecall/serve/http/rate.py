"""So many requests a second of one caller, with a burst of two seconds' worth, counted once for all gateways.

    T = 1 / rate;  a caller may ask at t if  tat − t ≤ burst − T;  then  tat ← max(tat, t) + T

The generic cell rate algorithm (ITU-T I.371), a token bucket whose whole state is one number, the theoretical arrival
time. Deviation: callers share a table of fixed size in mapped memory; in a full set of it the one that was quiet for
longest, whose bucket is full anyway, gives way.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_BURST_S = 2.0
_SETS, _WAYS = 2048, 8
_BYTES = _SETS * _WAYS * 16


class Rate:
    """Limits of all callers.

    Args:
        per_s: requests a second; None: unlimited.
        file: of the table, where several processes count together; made if it is missing.
    """

    def __init__(self, per_s: float | None, file: Path | None = None) -> None:
        self._per_s = per_s
        self._file = None if file is None else file.open("a+b")
        if self._file is not None:
            self._file.truncate(_BYTES)
        table = mmap.mmap(-1 if self._file is None else self._file.fileno(), _BYTES)
        self._callers = np.frombuffer(table, np.uint64).reshape(-1, 2, _WAYS)[:, 0]
        self._arrivals = np.frombuffer(table, np.float64).reshape(-1, 2, _WAYS)[:, 1]

    @property
    def is_limited(self) -> bool:
        """Whether callers are counted."""
        return self._per_s is not None

    def wait_s(self, caller: str) -> float:
        """0 if the caller may ask now (it is counted), else the seconds until it may."""
        if self._per_s is None:
            return 0.0
        token = int.from_bytes(hashlib.blake2b(caller.encode(), digest_size=8).digest(), "big") | 1
        callers, arrivals = self._callers[token % _SETS], self._arrivals[token % _SETS]
        step, burst = 1 / self._per_s, max(_BURST_S, 1 / self._per_s)
        with self._alone():
            now = time.monotonic()  # of the machine: all processes read the same
            known = np.flatnonzero(callers == token)
            place = int(known[0]) if len(known) else int(arrivals.argmin())
            due = max(float(arrivals[place]), now) if len(known) else now
            wait = due - now - (burst - step)
            if wait > 1e-9:
                return wait
            callers[place], arrivals[place] = token, due + step
        return 0.0

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._file is None:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
