"""Texts in batches of equal length: each distinct text once, nothing padded that need not be, progress shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from genrecall.telemetry import log, progress

EncodeChunk = Callable[[Sequence[str], Callable[[int], None]], np.ndarray]
_CHUNK = 4096


def encode_distinct(
    texts: Sequence[str], dim: int, encode_chunk: EncodeChunk, *, label: str, chunk: int = _CHUNK
) -> np.ndarray:
    """Encode N texts, equal ones once, in chunks of similar length.

    Args:
        texts: N texts.
        dim: D.
        encode_chunk: (up to ``chunk`` texts, shortest first; ``done(count)`` to report progress) → float32 (n, D).
        label: what the progress bar says.
        chunk: how many texts a call gets: bounds the memory that their tokens take.

    Returns:
        float32 (N, D), in the order of ``texts``.
    """
    distinct = dict.fromkeys(texts, 0)
    ordered = sorted(distinct, key=lambda text: (len(text), text))
    for place, text in enumerate(ordered):
        distinct[text] = place
    matrix = np.empty((len(ordered), dim), dtype=np.float32)
    start = time.perf_counter()
    with progress(label, len(ordered)) as bar:

        def done(count: int) -> None:
            bar.advance(count, **{"texts/s": (bar.done + count) / max(time.perf_counter() - start, 1e-9)})

        for begin in range(0, len(ordered), chunk):
            matrix[begin : begin + chunk] = encode_chunk(ordered[begin : begin + chunk], done)
    seconds = time.perf_counter() - start
    repeated = f" ({len(texts) - len(ordered):,} repeated)" if len(ordered) < len(texts) else ""
    rate = len(ordered) / max(seconds, 1e-9)
    log(f"{label}: {len(ordered):,} texts{repeated} in {seconds:.1f} s, {rate:,.0f} texts/s")
    return matrix[np.fromiter((distinct[text] for text in texts), np.int64, len(texts))]


def batches_of_tokens(lengths: np.ndarray, budget: int, most: int | None) -> list[np.ndarray]:
    """Index arrays that cover all texts, longest last; a batch holds at most ``budget`` padded tokens.

    Args:
        lengths: int (n,) tokens a text.
        budget: padded tokens a batch; a longer text is a batch of its own.
        most: texts a batch, None for no limit.
    """
    order = np.argsort(lengths, kind="stable")
    found, begin = [], 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or (end + 1 - begin) * int(lengths[order[end]]) > budget or end - begin == most
        if full:
            found.append(order[begin:end])
            begin = end
    return found
