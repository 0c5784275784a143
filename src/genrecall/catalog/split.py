"""Which events train, which validate and which test.

Leave-one-out: ``train = s[:-2], valid = s[-2], test = s[-1]`` of each user's sequence ``s`` (Kang & McAuley, SASRec,
ICDM 2018). Temporal: one cut in global time for all users (Meng, McCreadie, Macdonald & Ounis, "Exploring data
splitting strategies", RecSys 2020), so that nothing learnt lies in a target's future; leave-one-out does not promise
that. We deviate in one point: every rule says in a sentence what it did, counts included, and tables print it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from genrecall.catalog.events import POSITIVE, SPLITS, Events
from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """N questions "what comes next?" with their answers.

    Attributes:
        users: int32 (N,) user indices.
        targets: int32 (N,) the items to be found.
        histories: N rows; row ``i`` is everything of the user before target ``i``.
        part: ``test`` cases are asked once, at the end: the evaluator refuses them unless told so.
    """

    users: np.ndarray
    targets: np.ndarray
    histories: Histories
    part: Literal["validation", "test"] = "validation"

    def __post_init__(self) -> None:
        assert len(self.users) == len(self.targets) == len(self.histories)

    def __len__(self) -> int:
        return len(self.users)

    def subset(self, indices: np.ndarray) -> Cases:
        """These cases, in this order."""
        return replace(
            self, users=self.users[indices], targets=self.targets[indices], histories=self.histories.take(indices)
        )

    def of_items(self, items: np.ndarray) -> Cases:
        """The cases whose target is one of these items, for example the cold ones."""
        return self.subset(np.flatnonzero(np.isin(self.targets, items)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """One division of the histories.

    Attributes:
        train: U rows, numbered as the users; rows may be empty.
        valid: cases to choose settings by.
        test: cases to report.
        before_test: U rows; training events and the validation targets, for models that are fitted once more.
        name: ``leave_one_out``, ``temporal`` or ``source``.
        rule: what was done, in one sentence for the tables.
    """

    train: Histories
    valid: Cases
    test: Cases
    before_test: Histories
    name: str
    rule: str


def refitted(split: Split) -> Split:
    """The same test cases with validation targets among the training events; nothing is left to choose settings by."""
    none = split.valid.subset(np.empty(0, dtype=np.int64))
    rule = f"{split.rule}; validation targets train, too (refit)"
    return replace(split, train=split.before_test, valid=none, rule=rule)


def leave_one_out(histories: Histories, *, min_events: int = 3) -> Split:
    """Last event tests, the one before validates, the rest trains; shorter histories than ``min_events`` only train."""
    if min_events < 3:
        raise ConfigError(
            "leave-one-out needs an event to learn from before the two it holds out",
            seen=f"min_events={min_events}",
            allowed="3 or more",
            fix="leave min_events at 3",
        )
    held = histories.lengths >= min_events
    users = np.flatnonzero(held).astype(np.int32)
    begin, end = histories.offsets[:-1], histories.offsets[1:]
    short = int(np.count_nonzero(~held & (histories.lengths > 0)))
    rule = (
        "leave-one-out: each user's last event is the test target, the one before it the validation target, the rest "
        f"trains; the test history includes the validation item; {short} users with fewer than {min_events} events "
        "only train"
    )
    return Split(
        train=histories.slices(begin, np.where(held, end - 2, end)),
        valid=_cases(histories, end[users] - 2, users, "validation"),
        test=_cases(histories, end[users] - 1, users, "test"),
        before_test=histories.slices(begin, np.where(held, end - 1, end)),
        name="leave_one_out",
        rule=rule,
    )


def temporal(
    histories: Histories,
    *,
    valid_share: float = 0.1,
    test_share: float = 0.1,
    min_history: int = 1,
    keep_last: int | None = None,
) -> Split:
    """Cut at two moments for all users; every later event is a target, its history what the user did before it.

    Args:
        histories: with real timestamps.
        valid_share: share of events between the two cuts.
        test_share: share of events after the second cut.
        min_history: targets with fewer earlier events of their user are left out.
        keep_last: cut the histories of cases to this length (all targets of long users take memory squared).
    """
    if not histories.timed:
        raise ConfigError(
            "a temporal split needs timestamps that can be compared between users",
            seen="events with an order inside each user only",
            allowed="events with the column timestamp",
            fix="use the leave-one-out split",
        )
    if valid_share <= 0 or test_share <= 0 or valid_share + test_share >= 1:
        raise ConfigError(
            "the shares of the temporal split leave nothing to train on, or nothing to test",
            seen=f"valid_share={valid_share}, test_share={test_share}",
            allowed="two positive shares with a sum below 1",
            fix="use for example 0.1 and 0.1",
        )
    ranked, count = np.sort(histories.times), len(histories.times)
    valid_from, test_from = (
        ranked[min(int(count * share), count - 1)] if count else 0
        for share in (1 - valid_share - test_share, 1 - test_share)
    )
    part = (histories.times >= valid_from).astype(np.uint8) + (histories.times >= test_from)
    if count == 0 or len(np.unique(part)) < len(SPLITS):
        raise ConfigError(
            "the events lie too close in time to be cut in three",
            seen=f"{count} events at {len(np.unique(ranked))} different times",
            allowed="events before, between and after the two cuts",
            fix="use the leave-one-out split, or other shares",
        )
    when = [str(np.datetime64(int(moment), "s")) for moment in (valid_from, test_from)]
    return _by_part(
        histories,
        part,
        name="temporal",
        rule=f"temporal: events before {when[0]} UTC train, events from then on are validation targets and from "
        f"{when[1]} UTC test targets; a target's history is all the user did before it",
        min_history=min_history,
        keep_last=keep_last,
    )


def source(
    events: Events,
    *,
    repeats: Literal["keep", "first"] = "keep",
    tie_seed: int | None = 0,
    kinds: Sequence[str] = POSITIVE,
    min_history: int = 1,
    keep_last: int | None = None,
) -> Split:
    """The split that the source brings in its column ``split``; arguments as in ``Events.order`` and ``temporal``."""
    if events.split is None:
        raise ConfigError(
            "the events bring no split of their own",
            seen="no column split",
            allowed="a column split with the values train (or history), valid and test",
            fix="use the leave-one-out or the temporal split",
        )
    order = events.order(repeats, tie_seed, kinds)
    return _by_part(
        events.gather(order),
        events.split[order],
        name="source",
        rule="source: the source's own split column; each valid or test event is a target, its history is all that "
        "stands before it in the user's order",
        min_history=min_history,
        keep_last=keep_last,
    )


def hold_out_items(split: Split, *, share: float = 0.1, seed: int = 0) -> tuple[Split, np.ndarray]:
    """Take the items that appeared last out of the training events: they become cold.

    First appearance is the time of an item's first training event; without timestamps, the earliest place at which any
    user's history has it. Cases stay as they are, cold items in their histories too (a service has seen those events,
    its model has not): ``split.test.of_items(cold)`` are the cold cases.

    Args:
        split: any.
        share: of the items that have training events.
        seed: decides between items that appeared at the same time.

    Returns:
        The split with the smaller training part, and int32 the items held out, ascending.
    """
    train = split.train
    count = int(train.items.max(initial=-1)) + 1
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, train.items, train.times)
    known = np.flatnonzero(np.bincount(train.items, minlength=count))
    held = round(share * len(known))
    if not 0 < held < len(known):
        raise ConfigError(
            "this share of items leaves nothing cold, or nothing warm",
            seen=f"share={share} of {len(known)} items with training events",
            allowed="a share between 0 and 1 that holds out at least one item and leaves one",
            fix="use for example 0.1",
        )
    chance = np.random.default_rng(seed).permutation(count)[known]
    cold = np.sort(known[np.lexsort((chance, first[known]))[-held:]]).astype(np.int32)
    warm = train.select(~np.isin(train.items, cold))
    by = "" if train.timed else " (by the earliest place in any history, for want of timestamps)"
    lost = len(train.items) - len(warm.items)
    rule = (
        f"{split.rule}; the {held:,} items that appeared last{by}, {held / len(known):.0%} of those with training "
        f"events, are held out of training with their {lost:,} events"
    )
    before_test = split.before_test.select(~np.isin(split.before_test.items, cold))
    return replace(split, train=warm, before_test=before_test, rule=rule), cold


def _by_part(
    histories: Histories, part: np.ndarray, *, name: str, rule: str, min_history: int, keep_last: int | None
) -> Split:
    """Split by a part for each event (uint8 (E,), positions in SPLITS)."""
    rows = histories.rows
    enough = np.arange(len(part)) - histories.offsets[rows] >= min_history
    targets = [np.flatnonzero((part == code) & enough) for code in (1, 2)]
    left_out = int(np.count_nonzero((part > 0) & ~enough))
    rule += f"; {left_out} targets with fewer than {min_history} earlier events are left out"
    if keep_last is not None:
        rule += f"; histories of cases are cut to the last {keep_last} events"
    return Split(
        train=histories.select(part == 0),
        valid=_cases(histories, targets[0], rows[targets[0]], "validation", keep_last),
        test=_cases(histories, targets[1], rows[targets[1]], "test", keep_last),
        before_test=histories.select(part < 2),
        name=name,
        rule=rule,
    )


def _cases(
    histories: Histories,
    where: np.ndarray,
    users: np.ndarray,
    part: Literal["validation", "test"],
    keep_last: int | None = None,
) -> Cases:
    """Cases whose targets stand at ``where`` (int64 (N,)) in the event arrays."""
    begin = histories.offsets[users]
    if keep_last is not None:
        begin = np.maximum(begin, where - keep_last)
    return Cases(users=users, targets=histories.items[where], histories=histories.slices(begin, where), part=part)
