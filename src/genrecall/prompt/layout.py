"""A prompt as tables: all that writing one from a history takes, without tokenizer and words.

    prompt = head · piece(i_1) · joiner · piece(i_2) [separator] · … · tail

For implementations in other languages (``graph/ops/sequence.h``): what they write must equal ``PromptBuilder.encode``
and ``ItemPrompt.encode`` bit for bit, for histories without search texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The tables.

    Attributes:
        head: tokens before the history, of a user without profile.
        pieces: int32 (I, P), the tokens of each item's event; -1 after a piece's end.
        joiner: tokens between events.
        tail, empty_tail: tokens after the history, and after one without events.
        max_items: the newest so many events are shown.
        deduplicate: see ``HistoryConfig``.
        newest_first: the order of the events.
        sessions: an event whose time differs from the one before is told apart, by
        separator: a token after it (-1: none), and by
        session_offset: what is added to its first token (0: nothing).
        max_tokens: of head, events and tail together; 0 lifts the limit.
    """

    head: tuple[int, ...]
    pieces: np.ndarray
    joiner: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    empty_tail: tuple[int, ...] = ()
    max_items: int
    deduplicate: str = "none"
    newest_first: bool = False
    sessions: bool = False
    separator: int = -1
    session_offset: int = 0
    max_tokens: int = 0
