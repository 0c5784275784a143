"""The hash of the file format: known values, and a second implementation in plain integers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrecall.rank.hashing import code_of, codes_of, fnv1a64, fold, mix, rows_of

WORD = (1 << 64) - 1


def plain_mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def test_known_values() -> None:
    assert fnv1a64(b"") == 0xCBF29CE484222325
    assert fnv1a64(b"foobar") == 0x85944171F73967E8  # of the reference implementation
    assert code_of("") == 0xF52A15E9A9B5E89B  # as documented
    assert code_of("genrecall") == 0x0EB2173B0E66D8DC


@given(st.lists(st.text(max_size=8)))
def test_codes_are_those_of_plain_integers(texts: list[str]) -> None:
    assert codes_of(texts).tolist() == [plain_mix(fnv1a64(text.encode("utf-8"))) for text in texts]


@given(st.integers(0, WORD), st.lists(st.integers(0, WORD), min_size=1, max_size=4), st.integers(1, 10**9))
def test_folds_and_rows_are_those_of_plain_integers(salt: int, codes: list[int], buckets: int) -> None:
    expected = salt
    for code in codes:
        expected = plain_mix(expected ^ code)
    found = fold(np.uint64(salt), [np.array([code], np.uint64) for code in codes])
    assert found.tolist() == [expected]
    assert rows_of(found, buckets).tolist() == [1 + expected % buckets]


def test_mix_hits_every_bucket_alike() -> None:
    rows = rows_of(fold(code_of("f"), [codes_of([f"user {n}" for n in range(64_000)])]), 64)
    counts = np.bincount(rows, minlength=65)[1:]
    chi = ((counts - 1000) ** 2 / 1000).sum()
    assert chi < 110  # 63 degrees of freedom: p < 0.0002


def test_mix_is_a_bijection_on_what_is_tried() -> None:
    assert len(np.unique(mix(np.arange(100_000, dtype=np.uint64)))) == 100_000
