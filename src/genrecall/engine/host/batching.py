"""Which requests share a forward pass: by prompt length, within budgets of rows and of padded prompt tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def plan_batches(
    lengths: Sequence[int], rows: Sequence[int], *, max_rows: int, max_prompt_tokens: int
) -> Iterator[list[int]]:
    """Split requests into batches.

    Requests are taken from the longest prompt to the shortest, so that a batch pads little and the largest batch, and
    with it any lack of memory, comes first. One that exceeds a budget alone still gets a batch of its own.

    Args:
        lengths: prompt tokens of each request.
        rows: the most beams that each request can hold at any level.
        max_rows: budget of one batch.
        max_prompt_tokens: budget of one batch, padding counted.

    Yields:
        Request numbers; each exactly once.
    """
    batch: list[int] = []
    used = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # Sorted by length, the first request of a batch is its longest: all others are padded to it.
        tokens = lengths[batch[0]] * (len(batch) + 1) if batch else 0
        if batch and (used + rows[index] > max_rows or tokens > max_prompt_tokens):
            yield batch
            batch, used = [], 0
        batch.append(index)
        used += rows[index]
    if batch:
        yield batch
