"""Sums over ranks against their definition; the ranks are streams of one GPU, which read one memory, or processes."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from genrecall.kernels.rank_sum import SharedMemory, rank_sum, shared
from genrecall.kernels.rank_sum.reference import sum_of_parts

MOST, EPSILON = 4 << 20, 1e-6


def memory(ranks: int, dtype: torch.dtype, device: str) -> tuple[list[torch.Tensor], list[SharedMemory]]:
    kept = [torch.full(shared(ranks, MOST, dtype), -0.0, dtype=dtype, device=device) for _ in range(ranks)]
    places = tuple(one.data_ptr() for one in kept)
    return kept, [SharedMemory(places=places, rank=rank, most=MOST) for rank in range(ranks)]


def parts_of(ranks: int, rows: int, width: int, dtype: torch.dtype) -> tuple[list[torch.Tensor], ...]:
    """Parts with zeros of either sign among them, and a residual and a weight."""
    generator = torch.Generator().manual_seed(rows)
    parts = [torch.randn(rows, width, generator=generator).to(dtype) for _ in range(ranks)]
    for part in parts:
        part[:, ::5], part[:, 1::5] = -0.0, 0.0
    return parts, [torch.randn(rows, width, generator=generator).to(dtype), torch.rand(width, generator=generator)]


def streams_of(inputs: list[torch.Tensor]) -> list[torch.cuda.Stream]:
    """A stream for each rank. To allocate waits for what runs, as does the first launch of a kernel, which loads it;
    what runs here waits for what is launched next. So memory and all that tests launch between sums are there before.
    """
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for stream, x in zip(streams, inputs, strict=True):
        with torch.cuda.stream(stream):
            _ = [torch.empty_like(part) for part in (x, x[: max(len(x) // 2, 1)]) for _ in range(3)]
            x.mul_(1)
    torch.cuda.synchronize()
    return streams


def all_read(kept: list[torch.Tensor]) -> bool:
    """Nothing is left that a later sum could take for its own."""
    return all(bool((one.cpu() == 0).all() and one.cpu().signbit().all()) for one in kept)


def test_one_rank_adds_its_part(device):
    if device == "cpu" and not interpreted():
        pytest.skip("on CPUs the library sums")
    kept, (own,) = memory(1, torch.float32, device)
    for half in (0, 1, 0):
        (x,), (residual, weight) = parts_of(1, 7, 640, torch.float32)
        total = residual.clone().to(device)
        norm = rank_sum(x.to(device), total, weight.to(device) if half == 0 else None, EPSILON, own, half)
        expected_norm, expected = sum_of_parts([x], residual, weight, EPSILON)
        torch.testing.assert_close(total.cpu(), expected)
        if half == 0:
            torch.testing.assert_close(norm.cpu(), expected_norm)
        else:
            assert norm is None
    assert all_read(kept)


def interpreted() -> bool:
    from genrecall.kernels import dispatch

    return dispatch.choice("cpu") == "triton"


@pytest.mark.parametrize("once_bytes", [0, 1 << 19])
@pytest.mark.parametrize(("ranks", "dtype"), [(3, torch.float32), (4, torch.float16)])
def test_ranks_that_are_processes_hold_the_same_sum(device, monkeypatch, ranks, dtype, once_bytes):
    """Numbers of rows change from sum to sum, no width is a power of two, and programs have several rows."""
    if device == "cuda" or not interpreted():
        pytest.skip("interpreted kernels are run by processes that share memory")
    from genrecall.kernels.rank_sum import triton

    monkeypatch.setattr(triton, "_ONCE_BYTES", once_bytes)
    kept, own = memory(ranks, dtype, "cpu")
    for one in kept:
        one.share_memory_()
    places = tuple(one.data_ptr() for one in kept)
    sums = [parts_of(ranks, rows, 40, dtype) for rows in (5, 1, 9, 2, 4, 1)]
    for parts, _ in sums:
        parts[0][0, 2], parts[1][0, 3], parts[2][0, 4] = float("nan"), float("inf"), -torch.finfo(dtype).tiny / 2

    def run(rank: int) -> None:
        memory = SharedMemory(places=places, rank=rank, most=own[rank].most)
        for number, (parts, (residual, weight)) in enumerate(sums):
            norm = rank_sum(parts[rank], residual, weight.to(dtype), EPSILON, memory, number % 2)
            found.put((number, norm.numpy(), residual.numpy()))

    context = multiprocessing.get_context("fork")
    found = context.Queue()
    processes = [context.Process(target=run, args=(rank,), daemon=True) for rank in range(ranks)]
    try:
        for process in processes:
            process.start()
        for _ in range(ranks * len(sums)):
            number, norm, total = found.get(timeout=60)
            parts, (residual, weight) = sums[number]
            expected_norm, expected = sum_of_parts(parts, residual, weight.to(dtype), EPSILON)
            torch.testing.assert_close(torch.from_numpy(total), expected, equal_nan=True)
            torch.testing.assert_close(torch.from_numpy(norm), expected_norm, equal_nan=True)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert all_read(kept)


@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (50, 3584), (40, 8192), (300, 640)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_ranks_that_are_streams_hold_the_same_sum(ranks, rows, width, dtype):
    """As few wide rows as the programs of all ranks have room for on one GPU: two a multiprocessor."""
    kept, own = memory(ranks, dtype, "cuda")
    parts, (expected, weight) = parts_of(ranks, rows, width, dtype)
    inputs, totals = [part.cuda() for part in parts], [expected.cuda() for _ in range(ranks)]
    gain, norms = weight.to(dtype).cuda(), [torch.empty(0)] * ranks
    streams = streams_of(inputs)
    for turn in range(6):
        several = rows if turn % 3 else max(rows // 2, 1)  # what is read is as much as was written
        for rank, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                norms[rank] = rank_sum(
                    inputs[rank][:several], totals[rank][:several], gain, EPSILON, own[rank], turn % 2
                )
                inputs[rank].mul_(-2)  # every turn adds something else: what was there before would be seen
        norm, some = sum_of_parts([part[:several] for part in parts], expected[:several], weight.to(dtype), EPSILON)
        expected = torch.cat([some, expected[several:]])
        for part in parts:
            part.mul_(-2)
    torch.cuda.synchronize()
    assert all(torch.equal(total, totals[0]) for total in totals)
    assert all(torch.equal(one, norms[0]) for one in norms)
    torch.testing.assert_close(totals[0].cpu(), expected)
    torch.testing.assert_close(norms[0].cpu(), norm)
    assert all_read(kept)


@pytest.mark.gpu
def test_a_graph_of_sums_is_replayed():
    kept, own = memory(2, torch.float32, "cuda")
    parts, (expected, weight) = parts_of(2, 50, 3584, torch.float32)
    inputs, totals = [part.cuda() for part in parts], [expected.cuda() for _ in range(2)]
    gain, streams = weight.cuda(), streams_of(inputs)

    def sums(rank: int) -> None:
        for half in (0, 1):
            rank_sum(inputs[rank], totals[rank], gain, EPSILON, own[rank], half)
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
    for _ in range(12):
        _, expected = sum_of_parts(parts, expected, weight, EPSILON)
        for part in parts:
            part.mul_(-1.5)
    assert torch.equal(totals[0], totals[1])
    torch.testing.assert_close(totals[0].cpu(), expected)
    assert all_read(kept)
