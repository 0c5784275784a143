"""Rows of crosses and sums over histories: against the definitions in numpy, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.kernels.crossed_rows import Codes, crossed_rows
from genrecall.kernels.history_sums import Matrices, Past, Readings, history_sums
from genrecall.rank.hashing import mix, rows_of


@pytest.mark.parametrize(("requests", "items", "pairs"), [(3, 40, 700), (1, 1, 1), (5, 9, 256)])
def test_rows_of_crosses(device, requests, items, pairs):
    rng = np.random.default_rng(pairs)
    buckets = np.array([7, 1 << 20, 100_000_007, 1], np.int64)
    words = [rng.integers(0, 2**64, (4, n), dtype=np.uint64) for n in (requests, items)]
    there = [rng.random((4, n)) < 0.8 for n in (requests, items)]
    owner, candidates = np.sort(rng.integers(0, requests, pairs)), rng.integers(0, items, pairs).astype(np.int32)
    sides = [
        Codes(folded=torch.from_numpy(w.view(np.int64)).to(device), there=torch.from_numpy(t).to(device))
        for w, t in zip(words, there, strict=True)
    ]
    found = crossed_rows(*sides, *(torch.from_numpy(array).to(device) for array in (buckets, owner, candidates)))
    for cross, many in enumerate(buckets):
        rows = rows_of(mix(words[0][cross, owner] ^ words[1][cross, candidates]), int(many))
        known = there[0][cross, owner] & there[1][cross, candidates]
        np.testing.assert_array_equal(found[cross].cpu(), np.where(known, rows, 0))


def test_no_pair_is_no_row(device):
    none = Codes(folded=torch.zeros(2, 0, dtype=torch.int64, device=device),
                 there=torch.zeros(2, 0, dtype=torch.bool, device=device))  # fmt: skip
    empty = torch.zeros(0, dtype=torch.int64, device=device)
    assert crossed_rows(none, none, torch.ones(2, dtype=torch.int64, device=device), empty, empty.int()).shape == (2, 0)


@pytest.mark.parametrize(("items", "longest", "last"), [(60, 20, 5), (300, 7, 1), (12, 12, 13), (5, 0, 3)])
def test_sums_over_histories(device, items, longest, last):
    rng = np.random.default_rng(items)
    offsets, entries, values, dense = [], [], [], np.zeros((2, items, items), np.float32)
    for matrix in dense:
        rows = [np.sort(rng.permutation(items)[: rng.integers(0, longest + 1)]) for _ in range(items)]
        ends = np.cumsum([len(row) for row in rows])
        offsets.append(np.concatenate([[0], ends]) + sum(map(len, entries)))
        entries.append(np.concatenate(rows).astype(np.int32))
        values.append(rng.random(len(entries[-1])).astype(np.float32))
        matrix[np.repeat(np.arange(items), [len(row) for row in rows]), entries[-1]] = values[-1]
    weights = np.stack(
        [0.7 ** np.arange(last)[::-1], 1.0 * (np.arange(last) == last - 1), 0.3 ** np.arange(last)[::-1]]
    )
    reads = np.array([1, 0, 0], np.int32)
    histories = [rng.integers(0, items, many) for many in (9, 0, 2, 30)]
    owner, candidates = np.sort(rng.integers(0, 4, 400)), rng.integers(0, items, 400).astype(np.int32)

    def sent(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    matrices = Matrices(
        offsets=sent(np.stack(offsets)), items=sent(np.concatenate(entries)), values=sent(np.concatenate(values)),
        longest=int(np.diff(np.stack(offsets)).max()),
    )  # fmt: skip
    past = Past(
        items=sent(np.concatenate(histories).astype(np.int32)),
        offsets=sent(np.concatenate([[0], np.cumsum([len(h) for h in histories])])),
    )
    lasts = np.array([last, 1, last], np.int32)
    readings = Readings(matrix=sent(reads), last=sent(lasts), weights=sent(weights))
    found = history_sums(matrices, readings, past, sent(owner), sent(candidates)).cpu().numpy()
    for reading, read in enumerate(reads):
        for place, (request, item) in enumerate(zip(owner, candidates, strict=True)):
            total, newest = 0.0, histories[request][-last:]
            for weight, own in zip(weights[reading, last - len(newest) :], newest, strict=True):
                total += weight * np.float64(dense[read, own, item])
            assert found[reading, place] == total, (reading, request, item)
