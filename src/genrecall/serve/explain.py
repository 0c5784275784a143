"""Why an answer was as it was: the history that was read, every channel's list, the beams of every level."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from genrecall.engine.host.request import TracedBeam
from genrecall.recall.channel import Query
from genrecall.serve.answering import Outcome, fuse
from genrecall.serve.arms import INTERLEAVED
from genrecall.serve.recent import Remembered
from genrecall.serve.release import Release
from genrecall.serve.scenario import Scenario
from genrecall.serve.schema import Answer, Beam, Explained, Fused, Listing, Recommend, Rules, Search

_LISTED, _BEAMS, _TITLES = 50, 40, 3


def explained(remembered: Remembered, release: Release, rules: Scenario) -> Explained:
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
        rules=_rules(request, answer, release, rules),
        fused=_fused(remembered, release, rules),
        levels=levels,
        survivors=survivors,
    )


def _rules(request: Recommend | Search, answer: Answer, release: Release, rules: Scenario) -> Rules:
    fusion = release.fusion(tuple(answer.coverage.channels), rules)
    diversity = rules.diversity
    return Rules(
        scenario=request.scenario,
        method=fusion.config.method,
        weights=dict(zip(fusion.config.channels, fusion.weights.tolist(), strict=True)),
        constant=fusion.config.constant,
        floors=dict(rules.floors),
        budgets_ms=dict(rules.budgets_ms),
        spread=request.spread or rules.spread,
        diversity=None if diversity is None else asdict(diversity),
        fallback=list(rules.fallback),
    )


def _fused(remembered: Remembered, release: Release, rules: Scenario) -> list[Fused]:
    """Fused once more, now that somebody asks: the lists are remembered, the order before arranging is not."""
    answer, lists = remembered.answer, remembered.lists
    if INTERLEAVED in answer.versions.arms.values():
        return []  # two lists were fused, and a draft made one of them
    outcomes = {name: Outcome(coverage=answer.coverage.channels[name], listed=lists[name]) for name in lists}
    query = Query(history=np.zeros(remembered.history, np.int32))
    found = fuse(release, tuple(answer.coverage.channels), outcomes, query, _LISTED, rules)
    ids, ranks = release.contents.items.ids, {item.item_id: item.rank for item in answer.items if not item.fallback}
    return [
        Fused(
            item_id=ids[entry.item],
            place=place,
            value=round(entry.score, 6),
            parts={name: round(part, 6) for name, part in entry.parts.items()},
            rank=ranks.get(ids[entry.item]),
        )
        for place, entry in enumerate(found, 1)
    ]


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
