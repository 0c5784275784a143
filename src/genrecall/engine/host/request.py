"""What is asked of the engine and what it answers, in plain Python."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.errors import CapacityError, ConfigError

Sid = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One prompt whose continuation is a SID.

    Attributes:
        tokens: T token ids of the prompt; the model writes the SID after them.
        beam: W for every level, or one width per level; None takes the engine's.
        allowed: bool (I,), False for items that must not come back; None allows all. A SID stays possible while one of
            its items is allowed. Filters never change scores.
        trace: keep the beams of every level in the answer.
        user: whose prompt it is: what it has in common with the user's earlier ones is not read again. Nobody else's
            request sees any of it. None keeps nothing.
        timeout_s: an answer that cannot be there so many seconds after the request was made is not computed.
        state: give the model's state after the prompt with the answer, for rankers.
        seed: draw W SIDs without replacement, in proportion to their probability, instead of the best; the same seed
            draws the same. Scores stay those of the SIDs. None searches. Needs ``normalise="trie"``.
        most_a_code: at most so many SIDs that begin with the same code, at every level of the search; None: any number.
        narrowest: widths may be cut to so many beams where the timeout could not be kept otherwise; None: never.
        tag: what the caller calls it; whoever observes the engine is told which ones are being computed.
    """

    tokens: tuple[int, ...]
    beam: int | tuple[int, ...] | None = None
    allowed: np.ndarray | None = None
    trace: bool = False
    user: str | None = None
    timeout_s: float | None = None
    narrowest: int | None = None
    seed: int | None = None
    tag: int | None = None
    state: bool = False
    most_a_code: int | None = None

    @property
    def beams(self) -> int:
        """Of the widest level, as asked; 0 where the engine's width is taken."""
        if self.beam is None:
            return 0
        return max(self.beam) if isinstance(self.beam, tuple) else int(self.beam)

    def widths(self, levels: int, default: int) -> tuple[int, ...]:
        """W of each level.

        Raises:
            ConfigError: a width below 1, or not one width per level.
        """
        beam = default if self.beam is None else self.beam
        widths = (int(beam),) * levels if isinstance(beam, (int, np.integer)) else tuple(int(width) for width in beam)
        if len(widths) != levels or min(widths) < 1:
            raise ConfigError(
                "the beam width cannot be used",
                seen=beam,
                allowed=f"an integer of at least 1, or {levels} of them, one per level",
                fix="choose another beam (the last level's width is the number of answers)",
            )
        return widths

    def require(self, *, vocabulary: int, window: int, items: int) -> None:
        """Refuse what the model cannot read; ``window`` is the most prompt tokens that leave room for the SID."""
        if not self.tokens:
            raise ConfigError(
                "a request has an empty prompt",
                seen="0 tokens",
                allowed=f"1 to {window} tokens",
                fix="give at least the template's head, also for users without history",
            )
        if len(self.tokens) > window:
            raise CapacityError(
                "a prompt is longer than the model's window",
                seen=f"{len(self.tokens)} tokens",
                allowed=f"at most {window}, so that the SID fits after it",
                fix="shorten the history (history.max_items); the oldest items go first",
            )
        least = min(one for one in (self.narrowest, self.most_a_code, 1) if one is not None)
        if (self.timeout_s is not None and self.timeout_s <= 0) or least < 1:
            raise ConfigError(
                "a request's limits cannot be used",
                seen=f"timeout_s={self.timeout_s}, narrowest={self.narrowest}, most_a_code={self.most_a_code}",
                allowed="a positive timeout; at least 1 beam",
                fix="leave them out, or raise them",
            )
        if min(self.tokens) < 0 or max(self.tokens) >= vocabulary:
            raise ConfigError(
                "a prompt has token ids that the model lacks",
                seen=f"{min(self.tokens)} … {max(self.tokens)}",
                allowed=f"0 … {vocabulary - 1}",
                fix="build prompts with the vocabulary that was stored with this model",
            )
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise ConfigError("a seed is out of range", seen=self.seed, allowed="0 … 2^31 - 1", fix="choose another")
        if self.allowed is not None and (self.allowed.shape != (items,) or self.allowed.dtype != np.bool_):
            raise ConfigError(
                "a request's item filter does not fit the catalog",
                seen=f"{self.allowed.dtype} array of shape {self.allowed.shape}",
                allowed=f"booleans of shape ({items},), one per item of the trie",
                fix="make the filter from the catalog that the trie was built from",
            )


@dataclass(frozen=True)
class Refused:
    """A request that was given up before it had an answer: ``cancelled``, or ``late``."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class TracedBeam:
    """A beam that survived a level.

    Attributes:
        prefix: its codes so far.
        score: summed log-probability.
        children: valid codes after it in the catalog's trie.
        pruned: how many of these are gone after the next level, by selection or by the request's filter.
    """

    prefix: Sid
    score: float
    children: int
    pruned: int


@dataclass(frozen=True, kw_only=True)
class LevelTrace:
    """The surviving beams after one level, best first."""

    level: int
    beams: tuple[TracedBeam, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Distinct valid SIDs, best first, equal scores in SID order.

    Attributes:
        sids: at most W SIDs.
        scores: their summed log-probabilities.
        short: fewer than asked: the catalog, the filter or a narrow earlier level left no more.
        levels: what survived each level, where the request asked for a trace.
        narrowed: beams were cut below what was asked for, so that the timeout held.
        beam: W of the last level as it ran.
        state: float32 (E,) of the last prompt token after the last layer (of a trunk: of the trunk), where asked for.
    """

    sids: list[Sid]
    scores: list[float]
    short: bool
    levels: tuple[LevelTrace, ...] | None = None
    narrowed: bool = False
    beam: int = 0
    state: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores float32 (n,) of given SIDs, with the state of a request that asked for it."""

    scores: np.ndarray
    state: np.ndarray
