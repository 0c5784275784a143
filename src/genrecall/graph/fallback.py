"""What the compiled operators compute, in Python: for notebooks on machines without a compiler.

Slower, one call at a time, and not part of a SavedModel: a graph that holds Python runs in no other process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genrecall.engine.worker.frames import Frame, encode, read
from genrecall.errors import DataError
from genrecall.prompt.history import HistoryConfig, shown
from genrecall.prompt.layout import Layout

OK, DEADLINE, UNAVAILABLE, REFUSED = range(4)
_turns = itertools.count()


def sequences(layout: Layout, window: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """``BehaviorSequence`` for one layout; ``window`` is an ``ops.Window``."""
    settings = HistoryConfig(max_items=layout.max_items, deduplicate=layout.deduplicate)

    def run(
        items: np.ndarray, times: np.ndarray, splits: np.ndarray, now: np.ndarray, heads: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        rows, nows = [], np.broadcast_to(now, [len(splits) - 1])
        for row, (begin, end) in enumerate(itertools.pairwise(splits)):
            history, moments = items[begin:end], times[begin:end] if len(times) else None
            if window.sort and moments is not None:
                order = np.argsort(moments, kind="stable")
                history, moments = history[order], moments[order]
            kept = (history >= 0) & (history < len(layout.pieces))
            if window.window_s and moments is not None:
                kept &= moments >= nows[row] - window.window_s
            places = np.flatnonzero(kept)
            places = places[shown(history[places], settings)]
            head = heads[ends[row] : ends[row + 1]] if len(ends) else heads
            rows.append(_written(layout, head, history[places], None if moments is None else moments[places]))
        lengths = [0, *map(len, rows)]
        return np.array([token for tokens in rows for token in tokens], np.int32), np.cumsum(lengths, dtype=np.int64)

    return run


def _written(layout: Layout, head: np.ndarray, items: np.ndarray, times: np.ndarray | None) -> list[int]:
    tail = layout.tail if len(items) else layout.empty_tail
    room = layout.max_tokens - len(head) - len(tail) if layout.max_tokens else None
    if room is not None and room < 0:
        raise ValueError(
            f"a prompt without any history is longer than the model's window of {layout.max_tokens} tokens"
        )
    for first in range(len(items) + 1):  # the oldest events are left out until the others fit
        body = _body(layout, items[first:], None if times is None else times[first:])
        if room is None or len(body) <= room:
            return [*head.tolist(), *body, *tail]
    raise AssertionError("no events take no room")


def _body(layout: Layout, items: np.ndarray, times: np.ndarray | None) -> list[int]:
    opens = np.zeros(len(items), dtype=bool)
    if layout.sessions and times is not None and len(items):
        opens[1:] = times[1:] != times[:-1]
    order: Sequence[int] = range(len(items))
    body: list[int] = []
    for step, place in enumerate(reversed(order) if layout.newest_first else order):
        piece = [token for token in layout.pieces[items[place]].tolist() if token >= 0]
        if opens[place] and piece:
            piece[0] += layout.session_offset
        separator = [layout.separator] if opens[place] and layout.separator >= 0 else []
        body += [*(layout.joiner if step else ()), *piece, *separator]
    return body


def recall(bundle: str, items_per_sid: int, state_width: int) -> Callable[..., tuple[np.ndarray, ...]]:
    """``GenRecall`` for one bundle."""

    def run(
        tokens: np.ndarray,
        splits: np.ndarray,
        deadline_ms: np.ndarray,
        k: np.ndarray,
        beam: np.ndarray,
        exclude: np.ndarray,
        ends: np.ndarray,
        users: np.ndarray,
        engines: np.ndarray,
        *leaves: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        rows = len(splits) - 1
        states = np.full((rows, state_width), np.nan, np.float32)
        items = np.full((rows, int(k)), -1, np.int32)
        scores = np.full((rows, int(k)), -np.inf, np.float32)
        limits = np.broadcast_to(deadline_ms, [rows])

        async def one(row: int) -> int:
            gone = exclude[ends[row] : ends[row + 1]] if len(ends) else np.empty(0, np.int32)
            gone, limit = gone[gone >= 0], float(limits[row]) / 1e3 if limits[row] > 0 else None
            head: dict[str, Any] = {
                "kind": "generate",
                "id": 0,
                "beam": max(int(beam), int(k)),
                "user": users[row].decode() or None if len(users) else None,
                "timeout_s": limit,
                "narrowest": None,
                "seed": None,
                "items": len(leaves[2]) if len(gone) else None,
            }
            head |= {"bundle": bundle} if bundle else {}
            head |= {"state": True} if state_width else {}
            arrays = {"tokens": tokens[splits[row] : splits[row + 1]].astype(np.int32)}
            if len(gone):
                allowed = np.ones(len(leaves[2]), bool)
                allowed[gone] = False
                arrays["allowed"] = np.packbits(allowed)
            reply = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    reply = await _asked(engines, encode(Frame(head=head, arrays=arrays)))
                    if reply is None:
                        return UNAVAILABLE
            if reply is None or reply.head.get("error") == "TimeoutError":
                return DEADLINE
            if reply.head["kind"] != "answer":
                return REFUSED
            found = _owned(reply, leaves, set(gone.tolist()), items_per_sid)[: int(k)]
            items[row, : len(found)] = [item for item, _ in found]
            scores[row, : len(found)] = [score for _, score in found]
            if reply.arrays.get("state", states[row]).shape == (state_width,):
                states[row] = reply.arrays.get("state", states[row])
            return OK

        async def all_rows() -> list[int]:
            return await asyncio.gather(*map(one, range(rows)))

        return items, scores, np.array(asyncio.run(all_rows()), np.int32), states

    return run


async def _asked(engines: np.ndarray, message: bytes) -> Frame | None:
    first = next(_turns)
    for turn in range(min(2, len(engines)) if len(engines) > 1 else 2):
        try:
            reader, writer = await asyncio.open_unix_connection(engines[(first + turn) % len(engines)].decode())
            with contextlib.closing(writer):
                writer.write(message)
                reply = await read(reader)
        except (OSError, DataError):
            continue
        if reply is not None:
            return reply
    return None


def _owned(reply: Frame, leaves: Sequence[np.ndarray], gone: set[int], items_per_sid: int) -> list[tuple[int, float]]:
    sids, begin, owners = leaves
    place = {sid: at for at, sid in enumerate(map(tuple, sids.tolist()))}
    found = []
    for sid, score in zip(map(tuple, reply.arrays["sids"].tolist()), reply.arrays["scores"].tolist(), strict=True):
        at = place[sid]
        own = [item for item in owners[begin[at] : begin[at + 1]].tolist() if item not in gone]
        found += [(item, score) for item in own[: items_per_sid or None]]
    return found
