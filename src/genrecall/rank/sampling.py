"""Parts of lists: some requests, some of their candidates, and what a schema reads of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from genrecall.rank.columns import Ragged
from genrecall.rank.lists import ListReader, Lists
from genrecall.rank.schema import Schema


def taken(lists: Lists, rows: np.ndarray) -> Lists:
    """These requests, in this order."""
    asked = lists.asked
    where = Ragged(offsets=asked.candidates.offsets, values=np.arange(len(asked.candidates.values))).take(rows).values
    return Lists(
        asked=replace(
            asked,
            users=[asked.users[row] for row in rows],
            profiles=[asked.profiles[row] for row in rows],
            histories=asked.histories.take(rows),
            candidates=asked.candidates.take(rows),
            evidence=asked.evidence[where],
            state=None if asked.state is None else asked.state[rows],
        ),
        labels=lists.labels[where],
        units=lists.units[rows],
    )


def thinned(lists: Lists, rows: np.ndarray, negatives: int, rng: np.random.Generator) -> tuple[Lists, np.ndarray]:
    """Requests with both classes: what was taken, the nearest others, and as many drawn from the rest.

    Returns:
        The lists, and −ln π float32 (P,) of the chance π with which a candidate was to be among them: what is added to
        logits, so that losses mean the whole list (Bengio & Senécal, "Adaptive importance sampling", 2008).
    """
    found = taken(lists, rows)
    owner, labels = found.asked.candidates.owner, found.labels
    many = np.bincount(owner, labels > 0, minlength=len(found))
    fits = (many > 0) & (many < found.asked.candidates.lengths)
    column = np.arange(len(owner)) - found.asked.candidates.offsets[owner]
    draw = np.where(labels > 0, -2.0, np.where(column < negatives // 2, -1.0, rng.random(len(owner))))
    order = np.lexsort((draw, owner))
    place = np.empty(len(owner), np.int64)
    place[order] = np.arange(len(owner)) - found.asked.candidates.offsets[owner]
    kept = np.flatnonzero((place < many[owner] + negatives) & fits[owner])
    near = (labels <= 0) & (column < negatives // 2)
    close = np.bincount(owner, near, minlength=len(found))
    left = found.asked.candidates.lengths - many - close
    share = np.clip((negatives - close) / np.maximum(left, 1), 1e-9, 1.0)
    raised = np.where((labels > 0) | near, 0.0, -np.log(share)[owner]).astype(np.float32)[kept]
    lengths = np.bincount(owner[kept], minlength=len(found))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    asked = replace(
        found.asked,
        candidates=Ragged(offsets=offsets, values=found.asked.candidates.values[kept]),
        evidence=found.asked.evidence[kept],
    )
    thin = Lists(asked=asked, labels=labels[kept], units=found.units)
    return taken(thin, np.flatnonzero(fits)), raised


def shaped(lists: Lists, reader: ListReader, schema: Schema) -> Lists:
    """With the schema's evidence alone, in its order, and a state; NaN where the file has none."""
    asked, places_of = lists.asked, {name: place for place, name in enumerate(reader.evidence)}
    evidence = np.full((len(lists.labels), len(schema.evidence)), np.nan, np.float32)
    for place, name in enumerate(schema.evidence):
        if name in places_of:
            evidence[:, place] = asked.evidence[:, places_of[name]]
    state: np.ndarray | None = None
    if schema.state:
        state = np.full((len(lists), schema.state), np.nan, np.float32) if asked.state is None else asked.state
    return Lists(asked=replace(asked, evidence=evidence, state=state), labels=lists.labels, units=lists.units)
