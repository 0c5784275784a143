"""Places that a channel gets however the fusion ranks it.

    answer = the k best of the list, subject to  |{j : c lists j}| ≥ floor_c  for every channel c that lists so many

Quotas with floors, as recommenders with several candidate sources guarantee exposure (the constrained top-k of Celis,
Straszak & Vishnoi, "Ranking with fairness constraints", ICALP 2018, with one lower bound a group). Deviation: greedy.
Missing items of a channel replace the worst items that no floor needs, and the answer stands in the fused order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genrecall.recall.fusion.rule import Explained


def with_floors(found: Sequence[Explained], floors: Mapping[str, int], k: int) -> list[Explained]:
    """The first ``k`` of ``found`` (best first), with at least ``floors[c]`` items that channel c lists."""
    chosen, rest = list(range(min(k, len(found)))), list(range(k, len(found)))
    for channel, least in floors.items():
        have = sum(channel in found[place].ranks for place in chosen)
        for place in [place for place in rest if channel in found[place].ranks][: max(least - have, 0)]:
            out = _spare(found, chosen, floors)
            if out is None:
                break
            chosen[chosen.index(out)] = place
            rest.remove(place)
    return [found[place] for place in sorted(chosen)]


def _spare(found: Sequence[Explained], chosen: Sequence[int], floors: Mapping[str, int]) -> int | None:
    """The worst chosen place without which no floor is missed that is kept now; None where all are needed."""
    kept = {channel: sum(channel in found[place].ranks for place in chosen) for channel in floors}
    for place in sorted(chosen, reverse=True):
        if all(kept[channel] > least for channel, least in floors.items() if channel in found[place].ranks):
            return place
    return None
