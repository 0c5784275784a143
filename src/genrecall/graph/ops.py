"""The operators as Python functions over ragged tensors; where they cannot be compiled, Python stands in for them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from genrecall.graph import fallback, library
from genrecall.graph.library import CompilerError
from genrecall.graph.runtime import tensorflow
from genrecall.prompt.layout import Layout
from genrecall.telemetry import log

_PYTHON: list[CompilerError] = []


class Status(enum.IntEnum):
    """Why a row of ``gen_recall`` has no items."""

    OK = 0
    DEADLINE = 1
    """Its time was over, or the engine saw that it would be."""
    UNAVAILABLE = 2
    """No engine can be reached, or two were lost while they computed it."""
    REFUSED = 3
    """The engine serves another bundle, or cannot read the prompt; its reason is in the log."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What of a history is read, beyond what the bundle's prompts say.

    Attributes:
        window_s: events older than so many seconds before ``now`` are left out; 0: none.
        sort: events come in any order and are put in order of time first; equal times stay as they come.
    """

    window_s: int = 0
    sort: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Leaves:
    """The N SIDs of a catalog and who owns them, as tensors.

    Attributes:
        sids: int32 (N, L), in lexicographic order.
        begin: int32 (N + 1,): where each SID's items begin.
        items: int32 (I,): item indices by SID; of one SID the item that comes first first.
    """

    sids: Any
    begin: Any
    items: Any


def compiled() -> Any | None:
    """The compiled operators; None where there is no compiler, which is said once."""
    if _PYTHON:
        return None
    try:
        return library.load()
    except CompilerError as error:
        _PYTHON.append(error)
        log(
            f"warning: {error.what} ({error.seen}); Python stands in for them, which is slower and cannot be saved. "
            f"To do: {error.fix}"
        )
        return None


def require_compiled() -> Any:
    """The compiled operators.

    Raises:
        CompilerError: they cannot be compiled; a graph with Python in it cannot run in another process.
    """
    if compiled() is None:
        raise _PYTHON[0]
    return library.load()


def behavior_sequence(
    items: Any, times: Any, now: Any, layout: Layout, pieces: Any, window: Window, head: Any = None
) -> Any:
    """Prompts of R histories.

    Args:
        items: ragged int32 (R, None), item indices; those outside of the catalog are left out.
        times: ragged int64 (R, None) seconds, parallel to ``items``; None where unknown.
        now: int64 seconds, one or R; what ``window`` counts from.
        layout: how prompts are written.
        pieces: ``layout.pieces`` as a tensor.
        window: what of a history is read.
        head: ragged int32 (R, None), tokens before each history; None: the layout's.

    Returns:
        Ragged int32 (R, None) tokens.

    Raises:
        InvalidArgumentError: shapes that do not fit, or a head and tail that leave no room for the answer.
    """
    tf, ops = tensorflow(), compiled()
    moments = tf.zeros([0], tf.int64) if times is None else tf.cast(times.values, tf.int64)
    heads = tf.constant(layout.head, tf.int32) if head is None else head.values
    head_splits = tf.zeros([0], tf.int64) if head is None else head.row_splits
    inputs = (items.values, moments, items.row_splits, tf.cast(now, tf.int64), heads, head_splits)
    if ops is None:
        written = tf.numpy_function(fallback.sequences(layout, window), inputs, (tf.int32, tf.int64))
        tokens, splits = tf.ensure_shape(written[0], [None]), tf.ensure_shape(written[1], [None])
    else:
        tokens, splits = ops.behavior_sequence(
            *inputs,
            pieces,
            max_items=layout.max_items,
            deduplicate=layout.deduplicate,
            newest_first=layout.newest_first,
            sort=window.sort,
            sessions=layout.sessions,
            window_s=window.window_s,
            max_tokens=layout.max_tokens,
            separator=layout.separator,
            session_offset=layout.session_offset,
            joiner=list(layout.joiner),
            tail=list(layout.tail),
            empty_tail=list(layout.empty_tail),
        )
    return tf.RaggedTensor.from_row_splits(tokens, splits, validate=False)


def gen_recall(
    prompts: Any,
    *,
    k: Any,
    beam: Any,
    deadline_ms: Any,
    engines: Any,
    leaves: Leaves,
    exclude: Any = None,
    users: Any = None,
    bundle: str = "",
    items_per_sid: int | None = None,
    state_width: int = 0,
) -> tuple[Any, Any, Any, Any]:
    """The items that the engine writes after each of R prompts.

    Args:
        prompts: ragged int32 (R, None).
        k: int32, items a row.
        beam: int32, W; widened to ``k``.
        deadline_ms: float32, one or R, from now on; 0 or less waits forever.
        engines: string (n,), paths of Unix sockets. A user stays with one of them, other rows take turns; where one
            cannot be reached or is lost, the next is asked once.
        leaves: who owns which SID.
        exclude: ragged int32 (R, None), items that must not come back; -1 is nobody.
        users: string (R,); a named user's prompt is kept by the engine for the next one. "" is nobody.
        bundle: digest that the engine must serve; "" takes any.
        items_per_sid: at most so many items of one SID; None lifts the cap.
        state_width: E of the model's state after the prompt, for rankers; 0 asks for none.

    Returns:
        int32 (R, k) items, best first, padded with -1; float32 (R, k) scores, padded with -inf; int32 (R,) ``Status``;
        float32 (R, E) states, NaN where the engine sent none.

    Raises:
        InvalidArgumentError: shapes or numbers that do not fit.
        CancelledError: the caller gave up; so does the engine.
    """
    tf, ops = tensorflow(), compiled()
    nobody, nothing = tf.zeros([0], tf.string), tf.zeros([0], tf.int64)
    inputs = (
        prompts.values,
        prompts.row_splits,
        tf.reshape(deadline_ms, [-1]),
        k,
        beam,
        tf.zeros([0], tf.int32) if exclude is None else exclude.values,
        nothing if exclude is None else exclude.row_splits,
        nobody if users is None else users,
        engines,
        leaves.sids,
        leaves.begin,
        leaves.items,
    )
    if ops is None:
        types = (tf.int32, tf.float32, tf.int32, tf.float32)
        found = tf.numpy_function(fallback.recall(bundle, items_per_sid or 0, state_width), inputs, types)
        shapes = ([None, None], [None, None], [None], [None, state_width])
        items, scores, status, state = (tf.ensure_shape(part, own) for part, own in zip(found, shapes, strict=True))
        return items, scores, status, state
    made = ops.gen_recall(*inputs, bundle=bundle, items_per_sid=items_per_sid or 0, state_width=state_width)
    return made.items, made.scores, made.status, made.state
