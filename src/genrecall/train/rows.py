"""One window of a history as tokens and targets: as a plain causal row, or as a trunk with branches.

A template without tail needs nothing but the row itself: the SID of every event follows what came before it. With a
tail, the window's tokens are a trunk, and each prefix has a branch ``[tail][answer]`` that sees the trunk up to its
place and itself, at the positions it would have in a prompt of its own: the tree attention of SpecInfer (Miao et al.
2023, arXiv 2305.09781) as a training layout. One copy of a history serves all of its prefixes, and nothing leaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from genrecall.prompt.history import shown
from genrecall.prompt.prompt import PromptBuilder

_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """T tokens with M targets.

    Attributes:
        tokens: int64 (T,).
        source: int64 (M, L): index of the token whose hidden state predicts the target's code of each level.
        items: int64 (M,) item indices of the targets.
        events: int (n,) items that the targets follow and, as the last M, the targets.
        times: int64 (n,) of the events; None where nothing tells sessions apart.
        positions: int64 (T,) place of each token in its own prompt; None for a causal row.
        branch: int64 (T,): 0 in the trunk, 1, 2, … in branches; None for a causal row.
        limit: int64 (T,): a token sees the trunk's tokens up to this index; None for a causal row.
        text_source: int64 (K,): index of the token whose hidden state predicts each token of a text.
        text_tokens: int64 (K,) those tokens; empty where nothing but SIDs is asked.
    """

    tokens: np.ndarray
    source: np.ndarray
    items: np.ndarray
    events: np.ndarray
    times: np.ndarray | None
    positions: np.ndarray | None = None
    branch: np.ndarray | None = None
    limit: np.ndarray | None = None
    text_source: np.ndarray = field(default_factory=lambda: _NOTHING)
    text_tokens: np.ndarray = field(default_factory=lambda: _NOTHING)

    @property
    def trunk(self) -> Row:
        """The same row with places, so that it can be packed beside rows with branches."""
        if self.positions is not None:
            return self
        place = np.arange(len(self.tokens))
        return replace(self, positions=place, branch=np.zeros_like(place), limit=place)


def sid_row(question: np.ndarray, sid: np.ndarray, item: int) -> Row:
    """A question whose answer is an item's SID.

    Args:
        question: int64 (T,).
        sid: int64 (L,) the SID's token ids.
        item: its item index.
    """
    return Row(
        tokens=np.concatenate([question, sid[:-1]]),
        source=(len(question) - 1 + np.arange(len(sid)))[None],
        items=np.asarray([item], dtype=np.int64),
        events=np.asarray([item], dtype=np.int64),
        times=None,
    )


def text_row(question: np.ndarray, words: np.ndarray, levels: int) -> Row:
    """A question whose answer is a text: no code is asked of it.

    Args:
        question: int64 (T,).
        words: int64 (K,) tokens of the answer.
        levels: L.
    """
    return Row(
        tokens=np.concatenate([question, words[:-1]]),
        source=np.zeros((0, levels), dtype=np.int64),
        items=_NOTHING,
        events=_NOTHING,
        times=None,
        text_source=len(question) - 1 + np.arange(len(words)),
        text_tokens=words,
    )


def causal_row(
    prompts: PromptBuilder, profile: Mapping[str, str], items: np.ndarray, times: np.ndarray | None, first_target: int
) -> Row:
    """Every event from ``first_target`` on is predicted from all that stands before it."""
    head = np.asarray(prompts.head(profile), dtype=np.int64)
    body = prompts.body(items, times)
    begin = len(head) + body.sid_begin[first_target:]
    last = int(begin[-1]) + prompts.levels - 1  # the last code of the last answer is read by nobody
    return Row(
        tokens=np.concatenate([head, body.tokens])[:last],
        source=begin[:, None] + np.arange(prompts.levels) - 1,
        items=np.asarray(items[first_target:], dtype=np.int64),
        events=items,
        times=times,
    )


def branched_row(
    prompts: PromptBuilder, profile: Mapping[str, str], items: np.ndarray, times: np.ndarray | None, first_target: int
) -> Row:
    """A trunk of all events but the last, and a branch for each event from ``first_target`` on."""
    levels = prompts.levels
    head = np.asarray(prompts.head(profile), dtype=np.int64)
    body = prompts.body(items[:-1], None if times is None else times[:-1])
    trunk = np.concatenate([head, body.tokens])
    answers = prompts.sids[items].astype(np.int64) + prompts.vocabulary.level_starts
    ends = len(head) + np.concatenate([[0], body.end])  # trunk tokens before event k
    tokens, positions, branch, limit, source = [trunk], [np.arange(len(trunk))], [], [], []
    branch.append(np.zeros(len(trunk), dtype=np.int64))
    limit.append(np.arange(len(trunk)))
    at = len(trunk)
    for number, k in enumerate(range(first_target, len(items))):
        tail = prompts.tail(empty=k == 0)
        own = np.concatenate([np.asarray(tail, dtype=np.int64), answers[k, :-1]])
        asks = at + len(tail) - 1 if tail else ends[k] - 1  # the token after which the first code comes
        source.append(np.concatenate([[asks], at + len(tail) + np.arange(levels - 1)]))
        tokens.append(own)
        positions.append(ends[k] + np.arange(len(own)))
        branch.append(np.full(len(own), number + 1))
        limit.append(np.full(len(own), ends[k] - 1))
        at += len(own)
    return Row(
        tokens=np.concatenate(tokens),
        source=np.stack(source).astype(np.int64),
        items=np.asarray(items[first_target:], dtype=np.int64),
        events=items,
        times=times,
        positions=np.concatenate(positions),
        branch=np.concatenate(branch),
        limit=np.concatenate(limit),
    )


def single_row(prompts: PromptBuilder, profile: Mapping[str, str], items: np.ndarray, times: np.ndarray | None) -> Row:
    """The last event is predicted from a prompt of its own: for newest-first or last-occurrence histories."""
    kept = shown(items[:-1], prompts.history)
    prompt = prompts.encode(items[:-1][kept], profile, None if times is None else times[:-1][kept])
    answer = prompts.sids[items[-1]].astype(np.int64) + prompts.vocabulary.level_starts
    return Row(
        tokens=np.concatenate([np.asarray(prompt, dtype=np.int64), answer[:-1]]),
        source=(len(prompt) - 1 + np.arange(prompts.levels))[None],
        items=np.asarray(items[-1:], dtype=np.int64),
        events=np.append(items[:-1][kept], items[-1]),
        times=None if times is None else np.append(times[:-1][kept], times[-1]),
    )
