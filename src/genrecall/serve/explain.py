"""Why an answer was as it was: the history that was read, every channel's list, the beams of every level."""

from __future__ import annotations

import numpy as np

from genrecall.engine.host.request import TracedBeam
from genrecall.serve.recent import Remembered
from genrecall.serve.release import Release
from genrecall.serve.schema import Beam, Explained, Listing, Search

_LISTED, _BEAMS, _TITLES = 50, 40, 3


def explained(remembered: Remembered, release: Release) -> Explained:
    """Put words to an answer that this release gave; beams only where the request asked for an explanation."""
    request, answer, lists = remembered.request, remembered.answer, remembered.lists
    ids, titles = release.contents.items.ids, release.contents.items.titles
    generative = lists.get("generative")
    levels, survivors = None, None
    if request.explain and generative is not None and generative.levels is not None:
        levels = [[_beam(beam, release) for beam in level.beams[:_BEAMS]] for level in generative.levels]
        survivors = [len(level.beams) for level in generative.levels]
    return Explained(
        request_id=answer.request_id,
        user_id=request.user_id,
        query=request.query if isinstance(request, Search) else None,
        answer=answer,
        lists={
            name: [
                Listing(ids[item], titles[item], round(score, 6))
                for item, score in zip(listed.items[:_LISTED].tolist(), listed.scores[:_LISTED].tolist(), strict=True)
            ]
            for name, listed in lists.items()
        },
        levels=levels,
        survivors=survivors,
    )


def _beam(beam: TracedBeam, release: Release) -> Beam:
    table, titles = release.contents.table, release.contents.items.titles
    prefix = np.asarray(beam.prefix)
    below = np.flatnonzero((table.sids[:, : len(prefix)] == prefix).all(axis=1))[:_TITLES]
    return Beam(
        sid=table.space.format(beam.prefix),
        score=round(beam.score, 4),
        children=beam.children,
        pruned=beam.pruned,
        titles=[titles[item] for item in below.tolist()],
    )
