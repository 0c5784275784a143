"""From histories to batches: deterministic by (seed, epoch), under a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.prompt.history import HistoryConfig, shown
from genrecall.prompt.prompt import PromptBuilder
from genrecall.telemetry import log
from genrecall.train.config import TrainConfig
from genrecall.train.distil import Contexts
from genrecall.train.rows import Row, branched_row, causal_row, single_row
from genrecall.train.windows import Windows, batches, cut, singles

Profiles = Callable[[int], Mapping[str, str]]
_PACK_TOKENS = 1024
# Row widths are rounded up to this: CPU kernels are compiled and kept for every shape they meet, 10 MB a new one.
_WIDTH_STEP = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """B rows of T tokens with M targets.

    Attributes:
        tokens: int64 (B, T).
        source: int64 (M, L) index into the B*T tokens of what predicts each code of each target.
        items: int64 (M,) item indices of the targets.
        contexts: what the targets follow, row by row in the order of ``items``.
        positions: int64 (B, T); None where rows are plain prompts, and the attention plainly causal.
        segment: int64 (B, T): which history a token belongs to, -1 for filling; with ``branch`` and ``limit`` (see Row)
            it says who sees whom; None as above.
        text_source, text_tokens: int64 (K,) index of what predicts each token of the answers that are texts, and those
            tokens; None where all answers are SIDs.
    """

    tokens: np.ndarray
    source: np.ndarray
    items: np.ndarray
    contexts: Contexts
    positions: np.ndarray | None = None
    segment: np.ndarray | None = None
    branch: np.ndarray | None = None
    limit: np.ndarray | None = None
    text_source: np.ndarray | None = None
    text_tokens: np.ndarray | None = None


class Plan(Protocol):
    """What an epoch consists of."""

    @property
    def targets(self) -> np.ndarray:
        """int64 (N,) answers that each of N rows asks for."""
        ...


PlanT = TypeVar("PlanT", bound=Plan)


class ExampleSource(Protocol[PlanT]):
    """Where a run takes its batches from."""

    prompts: PromptBuilder

    def plan(self, epoch: int) -> tuple[PlanT, list[np.ndarray]]:
        """The rows of an epoch, and its batches as arrays of row indices."""
        ...

    def collate(self, plan: PlanT, group: np.ndarray) -> Batch:
        """Tokens and targets of one batch of the plan made last."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the model's manifest says of the examples."""
        ...


class Examples:
    """Training examples of U users' histories.

    Args:
        prompts: the same builder that serves.
        histories: training events only.
        profile_of: profile columns of a user.
        config: windows, thinning, budget, seed.
    """

    def __init__(
        self, prompts: PromptBuilder, histories: Histories, profile_of: Profiles | None, config: TrainConfig
    ) -> None:
        self.prompts, self.config = prompts, config
        self.profile_of = profile_of or (lambda user: {})
        if config.max_events_per_user is not None:
            histories = histories.last(config.max_events_per_user)
        self._histories = histories
        self._heads = self._head_tokens()
        self.capacity = self._capacity()
        self._epoch = -1
        self.histories = _once(histories, prompts)

    def plan(self, epoch: int) -> tuple[Windows, list[np.ndarray]]:
        """The epoch's windows, and its batches as arrays of window indices."""
        if epoch != self._epoch and self.config.reshuffle_ties:
            self.histories = _once(self._histories.shuffle_ties(self.config.seed * 1_000_003 + epoch), self.prompts)
        self._epoch = epoch
        lengths = self.histories.lengths
        config = self.config
        if self.prompts.history.grows:
            context = min(round(config.overlap * self.capacity), self.capacity - 1)
            windows = cut(lengths, capacity=self.capacity, context=context, seed=config.seed, epoch=epoch)
        else:
            windows = singles(lengths)
        sizes = self.sizes(windows)
        groups = batches(
            sizes if self._branched else _rounded(sizes),
            budget=config.batch_tokens,
            padded=not self._branched,
            seed=config.seed,
            epoch=epoch,
        )
        return windows, groups

    def collate(self, windows: Windows, group: np.ndarray) -> Batch:
        """Tokens and targets of one batch of the plan made last."""
        rows = [self.row(windows, int(index)) for index in group]
        return pack(rows, self.prompts.vocabulary.pad) if self._branched else pad(rows, self.prompts.vocabulary.pad)

    def facts(self) -> dict[str, Any]:
        """Nothing that the settings do not say."""
        return {}

    def row(self, windows: Windows, index: int) -> Row:
        """The tokens and targets of one window."""
        user, begin = int(windows.users[index]), int(windows.begin[index])
        stretch = slice(begin, int(windows.end[index]))
        # Order numbers are no times: serving has none to give either, so all of a history is one session.
        times = self.histories.times_of(user)[stretch] if self.histories.timed else None
        items = self.histories.of(user)[stretch]
        profile = self.profile_of(user)
        if not self.prompts.history.grows:
            return single_row(self.prompts, profile, items, times)
        write = causal_row if self.prompts.causal else branched_row
        return write(self.prompts, profile, items, times, int(windows.first_target[index]) - begin)

    def sizes(self, windows: Windows) -> np.ndarray:
        """int64 (N,) tokens of each window's row; an estimate from above where events differ in length."""
        shown_items = windows.end - windows.begin
        if not self.prompts.history.grows:
            shown_items = np.minimum(shown_items, self.prompts.history.max_items + 1)
        sizes = self._heads[windows.users] + shown_items * self._item_tokens
        tail = len(self.prompts.tail())
        return sizes + (windows.targets * (tail + self.prompts.levels - 1) if self._branched else tail)

    @property
    def _branched(self) -> bool:
        return self.prompts.history.grows and not self.prompts.causal

    @property
    def _item_tokens(self) -> int:
        return self.prompts.longest_event

    def _head_tokens(self) -> np.ndarray:
        """int64 (U,) tokens before each user's history, the profile's among them; 0 for users without events."""
        tokens = np.zeros(len(self._histories), dtype=np.int64)
        for user in np.flatnonzero(self._histories.lengths).tolist():
            tokens[user] = len(self.prompts.head(self.profile_of(user)))
        return tokens

    def _capacity(self) -> int:
        """Events of a training row: those a prompt shows and its answer, as far as the model's window lets.

        One capacity serves all users, so it is that of the longest profile.
        """
        wanted = self.prompts.history.max_items
        longest = self.prompts.head(self.profile_of(int(self._heads.argmax())))
        self.prompts.room(longest, self.prompts.tail(empty=True))  # what each history's first event is asked with
        room = self.prompts.room(longest, self.prompts.tail())
        fits = max(room // self._item_tokens, 0)
        if fits < wanted and self.prompts.history.grows:
            log(f"the model's window holds {fits} events of a history, not {wanted}: training rows are cut to that")
        return min(wanted, fits) + 1


def pad(rows: Sequence[Row], filling: int) -> Batch:
    """Rows side by side, filled at the end: under causal attention nothing sees the filling, so no mask is needed."""
    width = _rounded(max(len(row.tokens) for row in rows))
    tokens = np.full((len(rows), width), filling, dtype=np.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row.tokens)] = row.tokens
    return Batch(
        tokens=tokens,
        source=np.concatenate([row.source + number * width for number, row in enumerate(rows)]),
        items=np.concatenate([row.items for row in rows]),
        contexts=_contexts(rows),
    )


def pack(rows: Sequence[Row], filling: int) -> Batch:
    """Rows put one after another into as few lines as fit, the longest first; each is a segment of its own."""
    sizes = np.asarray([len(row.tokens) for row in rows])
    width = max(_PACK_TOKENS if sizes.sum() > _PACK_TOKENS else 0, int(sizes.max()))
    used: list[int] = []
    place = np.zeros((len(rows), 2), dtype=np.int64)
    for index in np.argsort(-sizes, kind="stable"):
        line = next((n for n, taken in enumerate(used) if taken + sizes[index] <= width), len(used))
        if line == len(used):
            used.append(0)
        place[index] = line, used[line]
        used[line] += int(sizes[index])
    width = max(used)
    shape = (len(used), width)
    tokens, segment = np.full(shape, filling, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
    positions, branch = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    limit = np.tile(np.arange(width), (len(used), 1))
    for number, (row, (line, start)) in enumerate(zip(rows, place.tolist(), strict=True)):
        assert row.positions is not None
        assert row.branch is not None
        assert row.limit is not None
        here = (line, slice(start, start + len(row.tokens)))
        tokens[here], positions[here], branch[here] = row.tokens, row.positions, row.branch
        segment[here], limit[here] = number, row.limit + start
    starts = (place[:, 0] * width + place[:, 1]).tolist()
    asked = any(len(row.text_tokens) for row in rows)
    return Batch(
        tokens=tokens,
        source=np.concatenate([row.source + start for row, start in zip(rows, starts, strict=True)]),
        items=np.concatenate([row.items for row in rows]),
        contexts=_contexts(rows),
        positions=positions,
        segment=segment,
        branch=branch,
        limit=limit,
        text_source=np.concatenate([row.text_source + at for row, at in zip(rows, starts, strict=True)])
        if asked
        else None,
        text_tokens=np.concatenate([row.text_tokens for row in rows]) if asked else None,
    )


def _rounded(tokens: Any) -> Any:
    return -(-tokens // _WIDTH_STEP) * _WIDTH_STEP


def _contexts(rows: Sequence[Row]) -> Contexts:
    return Contexts(
        items=[row.events for row in rows],
        times=[row.times for row in rows],
        targets=[len(row.items) for row in rows],
    )


def _once(histories: Histories, prompts: PromptBuilder) -> Histories:
    """Histories as prompts show them: where only first occurrences are shown, later ones are no targets either."""
    if prompts.history.deduplicate != "first":
        return histories
    everything = HistoryConfig(max_items=2**31, deduplicate="first")
    kept = np.zeros(len(histories.items), dtype=bool)
    for user in range(len(histories)):
        kept[histories.offsets[user] + shown(histories.of(user), everything)] = True
    return histories.select(kept)
