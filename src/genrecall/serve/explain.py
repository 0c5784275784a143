"""Why an answer was as it was: the history that was read, every channel's list, the beams of every level."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from genrecall.serve.lanes import Listed
from genrecall.serve.release import Release
from genrecall.serve.schema import Answer, Beam, Explained, Recommend, Search
from genrecall.serve.worker.messages import Traced

_LISTED, _BEAMS, _TITLES = 50, 40, 3


def explained(request: Recommend | Search, answer: Answer, release: Release, lists: Mapping[str, Listed]) -> Explained:
    """What is kept of one answer; titles and beams only where the request asked for an explanation."""
    ids, generative = release.contents.items.ids, lists.get("generative")
    levels = None
    if request.explain and generative is not None and generative.levels is not None:
        levels = [[_beam(beam, release) for beam in level[:_BEAMS]] for level in generative.levels]
    return Explained(
        request_id=answer.request_id,
        user_id=request.user_id,
        query=request.query if isinstance(request, Search) else None,
        answer=answer,
        lists={name: [ids[item] for item in listed.items[:_LISTED].tolist()] for name, listed in lists.items()},
        levels=levels,
    )


def _beam(beam: Traced, release: Release) -> Beam:
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
