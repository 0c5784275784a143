"""How alike two bundles answer the same users, channel by channel.

    overlap@k = mean_u |A_k(u) ∩ B_k(u)| / max(|A_k(u)|, |B_k(u)|),    compared by item id

(The overlap of Webber, Moffat & Zobel, "A similarity measure for indefinite rankings", TOIS 2010, at one depth;
deviation: by the longer list, so that a list that lost half of its items has lost half of its overlap.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genrecall.bundle import channels as classic
from genrecall.bundle.load import Recommender
from genrecall.catalog.store import Catalog
from genrecall.recall.channel import Channel, Query
from genrecall.telemetry import progress

_BATCH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Behaviour:
    """What is known of one user, by item ids, so that any bundle can be asked.

    Attributes:
        item_ids: oldest first.
        times: int64 (n,) of these events; None where unknown.
        profile: columns by name.
        user: who it is, for rankers that know them; None: nobody in particular.
    """

    item_ids: Sequence[str]
    times: np.ndarray | None = None
    profile: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None

    def query(self, index: Mapping[str, int]) -> Query:
        """For a bundle with this item index; what it does not know is left out, what was seen is excluded."""
        known = [place for place, item in enumerate(self.item_ids) if item in index]
        history = np.array([index[self.item_ids[place]] for place in known], np.int32)
        times = None if self.times is None else self.times[known]
        return Query(history=history, times=times, exclude=np.unique(history), profile=self.profile)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Of one channel's lists.

    Attributes:
        users: how many were asked for.
        k: depth.
        mean: overlap@k.
        same_first: share of users whose first item is the same.
        identical: share of users whose whole list is.
    """

    users: int
    k: int
    mean: float
    same_first: float
    identical: float


def sample(catalog: Catalog, split: Mapping[str, object], users: int, seed: int = 0) -> list[Behaviour]:
    """Whole histories of users with events, drawn by a fixed seed, ordered as a bundle of this split orders them."""
    repeats, tie_seed = split["repeats"], split["tie_seed"]
    histories = catalog.events.histories(repeats, tie_seed)  # type: ignore[arg-type]
    active = np.flatnonzero(histories.lengths)
    chosen = np.sort(np.random.default_rng(seed).permutation(active)[:users])
    ids = catalog.items.ids
    return [
        Behaviour(
            item_ids=[ids[item] for item in histories.of(user)],
            times=histories.times_of(user) if histories.timed else None,
            profile=catalog.profile_of(user),
        )
        for user in chosen.tolist()
    ]


def overlaps(before: Path | str, after: Path | str, users: Sequence[Behaviour], *, k: int = 10, device: str = "auto"
             ) -> dict[str, Overlap]:  # fmt: skip
    """Ask every channel that both bundles have (``fused`` too, where both ship a fusion)."""
    lists = []
    for path in (before, after):
        shop = Recommender.load(path, device=device)
        channels: list[Channel] = [shop.generative, *shop.channels.values()]
        fused = classic.load_fused(Path(path) / "channels", channels)
        every = [*channels, *([fused] if fused is not None else [])]
        queries = [user.query(shop.items.index) for user in users]
        lists.append({channel.name: _asked(channel, queries, min(k, len(shop.items)), shop.items.ids)
                      for channel in every})  # fmt: skip
    both = [name for name in lists[0] if name in lists[1]]
    return {name: of_lists(lists[0][name], lists[1][name], k) for name in both}


def of_lists(before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], k: int) -> Overlap:
    """Overlap of two lists a user; two empty ones are alike."""
    shares = [
        len(set(one) & set(other)) / max(len(one), len(other), 1) if one or other else 1.0
        for one, other in zip(before, after, strict=True)
    ]
    count = max(len(shares), 1)
    return Overlap(
        users=len(shares),
        k=k,
        mean=sum(shares) / count,
        same_first=sum(one[:1] == other[:1] for one, other in zip(before, after, strict=True)) / count,
        identical=sum(list(one) == list(other) for one, other in zip(before, after, strict=True)) / count,
    )


def _asked(channel: Channel, queries: Sequence[Query], k: int, ids: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = []
    with progress(channel.name, len(queries)) as bar:
        for begin in range(0, len(queries), _BATCH):
            part = queries[begin : begin + _BATCH]
            found += [[ids[i] for i in row if i >= 0] for row in channel.recall(part, k).items.tolist()]
            bar.advance(len(part))
    return found
