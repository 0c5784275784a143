"""What the learned fusion knows of a candidate.

For each channel: lift · listed? · 1 / (place + 5) · t(score) · t(best score of the list) · lift × history length; and
ln(1 + training count), the same × history length, and history length; and, where times are known, the item's
``recency``. History length is ln(1 + n), less its mean in the fit. Scores and what they mean stand in
``calibration``; the best score of an empty list is not known (NaN), which the scorer takes for the usual one, so that
a channel that did not answer does not turn the others' candidates around.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrecall.recall.fusion.calibration import Calibration, scaled
from genrecall.recall.fusion.pool import Pool

_PLACE = 5.0
_ALL = slice(None)


def features(
    pool: Pool,
    calibrations: Sequence[Calibration],
    lengths: np.ndarray,
    mean_length: float,
    where: np.ndarray | slice = _ALL,
    facts: np.ndarray | None = None,
) -> np.ndarray:
    """float32 (P', 6·C + 3 + D).

    Args:
        pool: of R requests.
        calibrations: of the C channels.
        lengths: int (R,) events in each history.
        mean_length: mean ln(1 + n) that lengths are measured from.
        where: int (P',) positions of the candidates that are described; all of them unless given.
        facts: float32 (I, D) what else is known of the items; None: nothing, and D = 0.
    """
    rows, items = pool.rows[where], pool.items[where]
    length = np.log1p(lengths) - mean_length
    count = np.log1p(pool.popularity.counts[items])
    told = 0 if facts is None else facts.shape[1]
    table = np.empty((len(rows), 3 + 6 * len(calibrations) + told), dtype=np.float32)
    if facts is not None:
        table[:, -told:] = facts[items]
    table[:, 0], table[:, 1], table[:, 2] = length[rows], count, count * length[rows]
    for channel, calibration in enumerate(calibrations):
        ranks = pool.ranks[:, channel]
        value = np.where(ranks > 0, scaled(pool, channel, calibration.scale), 0.0)
        first = np.full(len(pool), np.nan)
        first[pool.rows[ranks == 1]] = value[ranks == 1]
        lift, place = calibration.lift(pool, channel)[where], ranks[where]
        near = np.where(place > 0, 1.0 / (np.maximum(place, 1) + _PLACE), 0.0)
        columns = (lift, place > 0, near, value[where], first[rows], lift * length[rows])
        for number, column in enumerate(columns):
            table[:, 3 + 6 * channel + number] = column
    return table


def feature_names(channels: Sequence[str], facts: Sequence[str] = ()) -> list[str]:
    """What the columns of :func:`features` hold."""
    each = ("lift", "listed", "nearness", "score", "best score", "lift × history")
    told = [f"{channel}: {name}" for channel in channels for name in each]
    return ["history", "count", "count × history", *told, *facts]
