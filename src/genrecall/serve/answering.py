"""From the channels' lists to the answer: fusion, de-duplication, spread over SID prefixes, fallback, coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from genrecall import __version__
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.fusion.rule import Explained
from genrecall.serve.default import Filled
from genrecall.serve.lanes import Listed, RankAsked
from genrecall.serve.release import Release
from genrecall.serve.scenario import Scenario
from genrecall.serve.schema import ChannelCoverage, Item, Placed, Versions


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a channel gave: its list, or why there is none."""

    coverage: ChannelCoverage
    listed: Listed | None = None


def fuse(
    release: Release,
    channels: tuple[str, ...],
    outcomes: Mapping[str, Outcome],
    query: Query,
    k: int,
    rules: Scenario | None = None,
) -> list[Explained]:
    """The best ``k`` items of all lists; an item that several channels found stands once."""
    fusion = release.fusion(channels, rules)
    candidates = {}
    for name in fusion.config.channels:
        outcome = outcomes.get(name)
        listed = outcome.listed if outcome is not None else None
        empty = listed is None or len(listed.items) == 0
        items = np.full((1, 1), -1, np.int32) if empty else listed.items[None]  # type: ignore[union-attr]
        scores = np.full((1, 1), -np.inf, np.float32) if empty else listed.scores[None]  # type: ignore[union-attr]
        candidates[name] = Candidates(items=items, scores=scores)
    return evident(fusion.explain(candidates, k, np.array([len(query.history)]))[0])


def evident(found: Sequence[Explained]) -> list[Explained]:
    """Without items that channels only list to fill their lists up: filling up is the fallback's, and is told."""
    return [entry for entry in found if entry.ranks]


def rank_asked(
    found: Sequence[Explained], query: Query, user_id: str | None, deltas: Sequence[str], budget_s: float
) -> RankAsked:
    """What a ranker is asked of fused candidates."""
    names = sorted({name for entry in found for name in entry.ranks})
    return RankAsked(
        query=query,
        user_id=user_id,
        items=np.array([entry.item for entry in found], np.int32),
        fused=np.array([entry.score for entry in found], np.float32),
        places={name: np.array([entry.ranks.get(name, 0) for entry in found], np.int32) for name in names},
        deltas=deltas,
        budget_s=budget_s,
    )


def reordered(found: Sequence[Explained], logits: np.ndarray) -> list[Explained]:
    """By falling logit float32 (n,), which becomes the score; equal ones stay as they stood."""
    order = np.argsort(-logits, kind="stable").tolist()
    return [replace(found[place], score=float(logits[place])) for place in order]


def items_of(release: Release, found: Sequence[Explained], filled: Sequence[Filled]) -> list[Item]:
    """As they are answered: what was found, then what fills the list up."""
    contents = release.contents
    ids, titles, table = contents.items.ids, contents.items.titles, contents.table
    answered = [
        Item(
            item_id=ids[entry.item],
            title=titles[entry.item],
            rank=rank,
            score=round(entry.score, 6),
            sid=table.written(entry.item),
            channels={name: Placed(place, round(entry.scores[name], 6)) for name, place in entry.ranks.items()},
            sequence_score=entry.scores.get("generative"),
        )
        for rank, entry in enumerate(found, 1)
    ]
    lowest = min((item.score for item in answered), default=0.0)
    answered += [
        Item(
            item_id=ids[one.item],
            title=titles[one.item],
            rank=len(answered) + place,
            score=min(lowest, 0.0),
            sid=table.written(one.item),
            channels={one.channel: Placed(one.place, round(one.score, 6))},
            fallback=True,
        )
        for place, one in enumerate(filled, 1)
    ]
    return answered


def versions_of(
    release: Release, role: str, channels: tuple[str, ...], rules: Scenario | None = None, tables: int | None = None
) -> Versions:
    """What an answer of this release is stamped with."""
    return Versions(
        bundle=release.digest,
        catalog=release.contents.catalog_digest,
        fusion=release.fusion(channels, rules).config.method,
        genrecall=__version__,
        release=role,
        arms={},
        ranker="" if tables is None or release.contents.ranker is None else release.contents.ranker.digest,
        tables=tables or 0,
    )
