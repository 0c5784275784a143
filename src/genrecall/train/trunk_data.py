"""What an item trunk learns from, as one set of rows: histories with their teacher, and rows that take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.model.sequence import SOFT_ITEMS, SOFT_WEIGHTS
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.train.sequence.data import SequenceData, Shared
from genrecall.train.sequence.soft import SoftTargets
from genrecall.train.trunk import PREFIX
from genrecall.train.turns import TurnRows


def sequence_data(
    histories: Histories,
    prompt: ItemPrompt,
    profile_of: Callable[[int], Mapping[str, str]],
    *,
    soft: SoftTargets | None = None,
    turns: TurnRows | None = None,
) -> SequenceData:
    """What a trunk learns from: histories with their teacher, and rows that take turns; see ``train_trunk``."""
    heads = [prompt.head(profile_of(user)) for user in range(len(histories))]
    if turns is None:
        return SequenceData(
            histories=histories,
            beside_targets={} if soft is None else {SOFT_ITEMS: soft.items, SOFT_WEIGHTS: soft.weights},
            beside_users={PREFIX: np.array(heads, dtype=np.int32)},
            timed=prompt.sessions,
        )
    heads += [heads[user] if user >= 0 else prompt.head() for user in turns.users.tolist()]
    return SequenceData(
        histories=histories.followed_by(turns.rows),
        beside_targets=_taught(histories, soft, turns),
        beside_users={PREFIX: np.array(heads, dtype=np.int32)},
        timed=prompt.sessions,
        context=np.concatenate([np.ones(len(histories), np.int64), turns.context]),
        pool=len(turns.rows),
        drawn=turns.drawn(int(np.maximum(histories.lengths - 1, 0).sum())),
    )


def _taught(histories: Histories, soft: SoftTargets | None, turns: TurnRows) -> dict[str, Shared]:
    """Both teachers' rows; row 0 says nothing, and stands beside all that is no target."""
    told = [teacher for teacher in (soft, turns.soft) if teacher is not None]
    if not told:
        return {}
    events, asked = len(histories.items), np.zeros(len(turns.rows.items), np.int32)
    many = 1 if soft is None else 1 + events
    if turns.soft is not None:
        targets = turns.targets
        asked[targets] = many + np.arange(len(targets))
    index = np.concatenate([np.zeros(events, np.int32) if soft is None else np.arange(1, many, dtype=np.int32), asked])
    width = max(teacher.items.shape[1] for teacher in told)
    items, weights = (
        np.concatenate([np.zeros((1, width), arrays[0].dtype), *(_widened(array, width) for array in arrays)])
        for arrays in ([teacher.items for teacher in told], [teacher.weights for teacher in told])
    )
    return {SOFT_ITEMS: Shared(index=index, rows=items), SOFT_WEIGHTS: Shared(index=index, rows=weights)}


def _widened(array: np.ndarray, width: int) -> np.ndarray:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))
