"""Strings as 64-bit codes, and codes as rows of tables: the same numbers in Python and in a few lines of C++.

    code(s) = mix(fnv(utf8(s)))      fold(salt, c_1 … c_n) = h_n,  h_0 = salt,  h_i = mix(h_{i−1} ⊕ c_i)
    row     = 1 + fold mod buckets   (row 0: there is no value)

FNV-1a with 64 bits (Fowler, Noll & Vo, 1991; RFC 9923) and ``mix``, the finaliser of SplitMix64 (Steele, Lea & Flood,
OOPSLA 2014). Deviation: FNV's low bits are weak, so it never meets a modulus without ``mix``; a crossed feature folds
its parts' codes, so that no string of a pair is ever built.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BASIS, _PRIME, _WORD = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def fnv1a64(data: bytes) -> int:
    """FNV-1a of these bytes, 0 … 2⁶⁴−1."""
    found = _BASIS
    for byte in data:
        found = ((found ^ byte) * _PRIME) & _WORD
    return found


def mix(codes: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser of uint64 codes of any shape; a bijection."""
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return codes ^ (codes >> np.uint64(31))


def codes_of(values: Sequence[str]) -> np.ndarray:
    """uint64 (n,) codes of n strings."""
    distinct = {value: fnv1a64(value.encode("utf-8")) for value in dict.fromkeys(values)}
    return mix(np.fromiter((distinct[value] for value in values), np.uint64, len(values)))


def code_of(value: str) -> np.uint64:
    """The code of one string."""
    return np.uint64(codes_of([value])[0])


def fold(salt: np.uint64, parts: Sequence[np.ndarray]) -> np.ndarray:
    """uint64 (n,) of equally long code arrays uint64 (n,), in their order."""
    found = np.full(len(parts[0]), salt, np.uint64)
    for part in parts:
        found = mix(found ^ part)
    return found


def rows_of(folded: np.ndarray, buckets: int) -> np.ndarray:
    """int64 (n,) rows 1 … buckets of uint64 (n,) folded codes."""
    return (folded % np.uint64(buckets)).astype(np.int64) + 1
