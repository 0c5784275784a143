"""From the fused list to the answer's order: SID prefixes capped, neighbours made different, floors kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from genrecall.experiment.interleaving import team_draft
from genrecall.recall.fusion.diversity import Similarity, by_sids, by_vectors, diversified
from genrecall.recall.fusion.floors import with_floors
from genrecall.recall.fusion.rule import Explained
from genrecall.recall.towers import TowersChannel
from genrecall.serve.release import Release
from genrecall.serve.scenario import Diversity, Scenario
from genrecall.serve.schema import Spread


def arranged(
    release: Release, found: Sequence[Explained], rules: Scenario, spread: Spread | None, k: int
) -> list[Explained]:
    """The first ``k`` of a fused list, best first; ``spread`` is the request's own.

    The cap comes first, so that neither diversity nor floors bring back what it left out.
    """
    kept = spread_out(found, release.contents.table.sids, spread or rules.spread)
    floors = {name: least for name, least in rules.floors.items() if least > 0}
    if rules.diversity is not None:
        wide = kept[: rules.diversity.depth * k]
        chosen = diversified(wide, _similarity(release, rules.diversity), k, rules.diversity.balance)
        items = {entry.item for entry in chosen}
        kept = [*chosen, *(entry for entry in kept if entry.item not in items)]  # what floors may still choose from
    return with_floors(kept, floors, k) if floors else list(kept[:k])


def drafted(ways: Mapping[str, Sequence[Explained]], k: int, seed: str) -> tuple[list[Explained], list[str]]:
    """Two arranged lists as one by team draft, and the name of the one that each item came from.

    An item that stands in both names the channels of both: what one channel found alone is counted by them.
    """
    names = list(ways)
    entries = [{entry.item: entry for entry in listed} for listed in ways.values()]
    first, second = ([entry.item for entry in listed] for listed in ways.values())
    draft = team_draft(first, second, k, seed)
    found = []
    for item, team in draft:
        own, other = entries[team][item], entries[1 - team].get(item)
        if other is not None:
            own = replace(own, ranks={**other.ranks, **own.ranks}, scores={**other.scores, **own.scores})
        found.append(own)
    return found, [names[team] for _, team in draft]


def spread_out(found: Sequence[Explained], sids: np.ndarray, spread: Spread | None) -> list[Explained]:
    """Leave out what would be one too many of a SID prefix; ``sids`` int (I, L)."""
    if spread is None:
        return list(found)
    kept: list[Explained] = []
    count: dict[bytes, int] = {}
    for entry in found:
        prefix = sids[entry.item, : spread.levels].tobytes()
        count[prefix] = count.get(prefix, 0) + 1
        if count[prefix] <= spread.most:
            kept.append(entry)
    return kept


def _similarity(release: Release, diversity: Diversity) -> Similarity:
    towers = release.contents.channels.get("two_tower")
    if diversity.by != "sid" and isinstance(towers, TowersChannel):
        return by_vectors(towers.index.take)
    return by_sids(release.contents.table.sids)
