"""The ranker's cases of ``genrecall bench kernels``, kernel against reference on the ranker that it measures."""

from __future__ import annotations

import torch

from genrecall.bench.kernel_cases import RankerWorkload, Workload, cases
from genrecall.bench.kernels import difference

SMALL = RankerWorkload(requests=2, candidates=50, items=300, state=40, table_rows=270_000)
ONLY = ("cached_rows", "crossed_rows", "history_sums", "rank_network")


def test_kernels_agree_with_their_references(device: str) -> None:
    names = set()
    for case in cases(Workload(), SMALL, torch.device(device), torch.float32, ONLY):
        exact = not case.name.startswith("rank_network")
        assert difference(case) <= (0 if exact else 1e-5), (case.name, case.shape)
        names.add(case.name.split(".")[0])
    assert names == set(ONLY)
