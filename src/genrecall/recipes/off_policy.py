"""Another bundle judged by what users did with the answers of an exploring arm, without showing it to anybody.

Every logged answer is asked of the bundle again, with the history that the user had then; its first places are compared
with what was shown there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.bundle.load import Recommender
from genrecall.bundle.overlap import Behaviour
from genrecall.errors import DataError
from genrecall.eval.ope import Logged
from genrecall.experiment.exposure import Exposure
from genrecall.experiment.report import Happened
from genrecall.serve.batch.lists import Lists
from genrecall.serve.state.state import State
from genrecall.serve.state.store import shown
from genrecall.telemetry import progress

_BATCH = 64


def replayed(
    bundle: Path,
    exposures: Iterable[Exposure],
    events: Iterable[Happened],
    state: State,
    *,
    window_s: float,
    device: str = "auto",
) -> Logged:
    """A log as the estimators read it.

    Args:
        bundle: whose answers are evaluated.
        exposures: of one layer; those that did not explore are left out.
        events: that count as rewards; an item of an answer earns 1 if its user has one within ``window_s`` after it.
        state: of the service, for histories as they were before each answer.
        window_s: seconds.
        device: of the bundle's engine.

    Raises:
        DataError: no exposure explored.
    """
    kept = [one for one in exposures if one.propensities]
    if not kept:
        raise DataError(
            "nothing in the log was explored",
            seen="no exposure with propensities",
            allowed="answers of an arm with `explore` above 0",
            fix="set explore = 0.1 in an arm, and let it run",
        )
    wanted = _asked(bundle, kept, state, device)
    numbers: dict[str, int] = {}
    happened: dict[tuple[str, str], list[float]] = defaultdict(list)
    for user, item, when in events:
        happened[user, item].append(when)
    users = {user: place for place, user in enumerate(dict.fromkeys(one.user_id for one in kept))}
    rows: list[tuple[int, int, int, bool, float, bool]] = []
    for answer, (one, ours) in enumerate(zip(kept, wanted, strict=True)):
        begun = math.floor(one.time)  # events are stored in whole seconds
        for place, (item, chance) in enumerate(zip(one.items, one.propensities, strict=True)):
            earned = any(begun <= when <= one.time + window_s for when in happened[one.user_id, item])
            same = place < len(ours) and ours[place] == item
            rows.append((answer, place, numbers.setdefault(item, len(numbers)), earned, chance, same))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    listed = np.full((len(kept), max(len(ours) for ours in wanted)), -1, np.int64)
    for row, ours in enumerate(wanted):
        listed[row, : len(ours)] = [numbers.setdefault(name, len(numbers)) for name in ours]
    return Logged(
        answer=columns[0], place=columns[1], item=columns[2], reward=columns[3].astype(np.float64),
        propensity=columns[4], target=columns[5].astype(np.float64),
        user=np.array([users[one.user_id] for one in kept]), wanted=listed,
    )  # fmt: skip


def _asked(bundle: Path, exposures: Sequence[Exposure], state: State, device: str) -> list[list[str]]:
    """The bundle's item ids for each answer, best first."""
    contents, deepest = Contents.open(bundle), max(one.k for one in exposures)
    lists = Lists(contents, Recommender.load(bundle, device=device), deepest)
    known = {user: state.known(user) for user in {one.user_id for one in exposures}}
    queries, names = [], [one.user_id for one in exposures]
    for one in exposures:
        pasts, profile = known[one.user_id]
        before = shown([past for past in pasts if past.time < math.floor(one.time)], contents.split)
        behaviour = Behaviour(
            item_ids=[past.item_id for past in before],
            times=np.array([past.time for past in before], dtype=np.int64),
            profile=profile,
        )
        queries.append(behaviour.query(contents.items.index))
    found: list[list[str]] = []
    with progress("asking the bundle", len(queries)) as bar:
        for begin in range(0, len(queries), _BATCH):
            part = lists.answer(queries[begin : begin + _BATCH], names[begin : begin + _BATCH])
            found += [[contents.items.ids[item] for item in listed.items] for listed in part]
            bar.advance(len(part))
    return [ours[: one.k] for ours, one in zip(found, exposures, strict=True)]
