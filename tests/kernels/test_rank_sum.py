"""Sums over ranks against their definition; the ranks are streams of one GPU, which read one memory."""

from __future__ import annotations

import pytest
import torch

from genrecall.kernels.rank_sum import SharedMemory, rank_sum, shared_bytes
from genrecall.kernels.rank_sum.reference import sum_of_parts

MOST = 1 << 20


def memory(ranks: int, device: str) -> tuple[list[torch.Tensor], list[SharedMemory]]:
    kept = [torch.zeros(shared_bytes(ranks, MOST), dtype=torch.uint8, device=device) for _ in range(ranks)]
    places = torch.tensor([one.data_ptr() for one in kept], dtype=torch.int64, device=device)
    return kept, [SharedMemory(places=places, rank=rank, most=MOST) for rank in range(ranks)]


def parts_of(ranks: int, rows: int, width: int, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    parts = [torch.randn(rows, width, generator=generator).to(dtype) for _ in range(ranks)]
    return parts, torch.randn(rows, width, generator=generator).to(dtype)


def test_one_rank_adds_its_part(device):
    if device == "cpu" and not interpreted():
        pytest.skip("on CPUs the library sums")
    kept, (shared,) = memory(1, device)
    for half in (0, 1, 0):
        (x,), residual = parts_of(1, 7, 640, torch.float32)
        found = rank_sum(x.to(device), residual.to(device), shared, half)
        torch.testing.assert_close(found.cpu(), sum_of_parts([x], residual))
    assert not kept[0][2 * MOST :].any(), "flags are down"


def interpreted() -> bool:
    from genrecall.kernels import dispatch

    return dispatch.choice("cpu") == "triton"


@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (50, 3584), (70, 3584)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_ranks_that_are_streams_hold_the_same_sum(ranks, rows, width, dtype):
    kept, shared = memory(ranks, "cuda")
    streams = [torch.cuda.Stream() for _ in range(ranks)]
    parts, residual = parts_of(ranks, rows, width, dtype)
    inputs, totals = [part.cuda() for part in parts], [residual.cuda() for _ in range(ranks)]
    expected = residual
    torch.cuda.synchronize()
    for turn in range(6):
        for rank, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                rank_sum(inputs[rank], totals[rank], shared[rank], turn % 2)
                inputs[rank].mul_(-2)  # every turn adds something else: what was there before would be seen
        expected = sum_of_parts(parts, expected)
        for part in parts:
            part.mul_(-2)
    torch.cuda.synchronize()
    assert all(torch.equal(total, totals[0]) for total in totals)
    torch.testing.assert_close(totals[0].cpu(), expected)
    assert not any(one[2 * MOST :].any() for one in kept), "flags are down"


@pytest.mark.gpu
def test_a_graph_of_sums_is_replayed():
    kept, shared = memory(2, "cuda")
    streams = [torch.cuda.Stream() for _ in kept]
    parts, residual = parts_of(2, 50, 3584, torch.float32)
    inputs, totals = [part.cuda() for part in parts], [residual.cuda() for _ in range(2)]
    torch.cuda.synchronize()

    def sums(rank: int) -> None:
        for half in (0, 1):
            rank_sum(inputs[rank], totals[rank], shared[rank], half)
            inputs[rank].mul_(-1.5)

    graphs = []
    for rank, stream in enumerate(streams):  # no graph may be the first to launch it
        with torch.cuda.stream(stream):
            sums(rank)
    torch.cuda.synchronize()
    for rank, stream in enumerate(streams):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            sums(rank)
        graphs.append(graph)
    for _ in range(5):
        for graph, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    expected = residual
    for _ in range(12):
        expected = sum_of_parts(parts, expected)
        for part in parts:
            part.mul_(-1.5)
    assert torch.equal(totals[0], totals[1])
    torch.testing.assert_close(totals[0].cpu(), expected)
    assert not any(one[2 * MOST :].any() for one in kept), "flags are down"
