"""Lists to rank: recalled for cases and read by the generator, or drawn around training events.

Targets of validation lists are new to every channel and generator; negatives are the same request's other candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrecall.artifacts import open_artifact
from genrecall.bundle.contents import Contents
from genrecall.bundle.load import Recommender
from genrecall.bundle.parts import RANKER
from genrecall.catalog.split import Cases, Split
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError
from genrecall.eval.harness import queries_of
from genrecall.rank.columns import Asked, Ragged
from genrecall.rank.lists import Lists, ListWriter
from genrecall.rank.recalled import evidence_names, read_candidates, recalled
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.fusion import Fusion
from genrecall.recipes.recipe import SplitConfig
from genrecall.serve.default import default_channels, fusion_of
from genrecall.telemetry import progress

_BATCH, _WARM_SEED = 128, 7


@dataclass(frozen=True, kw_only=True, eq=False)
class Halves:
    """Two fusions, each fitted on the other half of the users; ``second`` int (n,) are users that the second serves."""

    second: np.ndarray
    fusions: tuple[Fusion, Fusion]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shop:
    """A bundle with what its lists are made of.

    Attributes:
        bundle: opened.
        catalog: with the events.
        split, config: that its parts were fitted under.
        fusion: of ``channels``.
        channels: that are fused, by name.
        parents: digests of the bundle's parts, but for a ranker.
        halves: fusions for validation cases, where ``fusion`` knows their targets; None: it does not.
    """

    bundle: Recommender
    catalog: Catalog
    split: Split
    config: SplitConfig
    fusion: Fusion
    channels: Mapping[str, Channel]
    parents: Mapping[str, str]
    halves: Halves | None = None

    @classmethod
    def open(cls, bundle: Path, catalog: Catalog, *, device: str = "auto") -> Shop:
        """Channels and fusion are those that the service takes by default."""
        found = Recommender.load(bundle, device=device)
        if found.catalog_digest != catalog.digest:
            raise ArtifactError(
                "the bundle was made from another catalog",
                seen=f"bundle of {found.catalog_digest}, catalog {catalog.digest}",
                allowed="the bundle's own catalog",
                fix="give the --catalog that the bundle was exported from",
            )
        config = SplitConfig(**found.split)
        present: dict[str, Channel] = {"generative": found.generative, **found.channels}
        contents = Contents.open(bundle)
        fusion = fusion_of(contents, default_channels(contents, present), {})
        channels = {name: present[name] for name in fusion.config.channels}
        parents = open_artifact(bundle, verify=False).manifest.parents
        return cls(
            bundle=found,
            catalog=catalog,
            split=config.divide(catalog),
            config=config,
            fusion=fusion,
            channels=channels,
            parents={name: digest for name, digest in parents.items() if name != RANKER},
        )


class ListMaker:
    """Recalls candidates, lets the generator read them, and appends lists with their labels to a parquet file.

    Args:
        shop: who recalls.
        cases: whose queries will be asked, in this order.
        file: to be written.
        k: candidates of a list.
    """

    def __init__(self, shop: Shop, cases: Cases, file: Path, *, k: int) -> None:
        self.shop, self.cases, self.k = shop, cases, k
        self._halves = shop.halves if cases.part == "validation" else None
        self._names = evidence_names(shop.fusion.config.channels)
        self._writer = ListWriter(
            file, evidence=self._names, profile=profile_columns(shop.catalog), items=shop.catalog.digest
        )
        self._asked = 0

    def add(self, queries: Sequence[Query]) -> Candidates:
        """Lists of the next cases' queries; returns the fused ones."""
        shop, cases, begin = self.shop, self.cases, self._asked
        rows = np.arange(begin, begin + len(queries))
        self._asked += len(queries)
        lengths = np.array([len(query.history) for query in queries])
        depth = max(self.k, shop.fusion.config.top)
        lists = {name: channel.recall(queries, depth) for name, channel in shop.channels.items()}
        fused = np.full((len(queries), self.k), -1, np.int32)
        for part, fusion in _parts(rows, cases.users[rows], shop.fusion, self._halves):
            own = {name: _rows(found, part - begin) for name, found in lists.items()}
            found = recalled(fusion, own, self.k, lengths[part - begin])
            told, candidates, owner = [queries[row - begin] for row in part], found.candidates, found.candidates.owner
            scores, states = read_candidates(shop.bundle.generative, told, candidates)
            asked = Asked(
                users=[shop.catalog.events.user_ids[user] for user in cases.users[part]],
                profiles=[query.profile for query in told],
                histories=Ragged.of([query.history for query in told]),
                candidates=candidates,
                evidence=found.evidence(self._names, scores),
                state=states,
            )
            labels = (candidates.values == cases.targets[part][owner]).astype(np.float32)
            self._writer.write(Lists(asked=asked, labels=labels, units=cases.users[part].astype(np.int64)))
            fused[part[owner] - begin, np.arange(len(owner)) - candidates.offsets[owner]] = candidates.values
        return Candidates(items=fused, scores=falling(fused))

    @property
    def complete(self) -> bool:
        """Whether all cases were asked."""
        return self._asked == len(self.cases)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def write_lists(shop: Shop, cases: Cases, file: Path, *, k: int) -> None:
    """Lists of validation cases."""
    queries = queries_of(cases, shop.config.protocol(shop.split), shop.catalog.profile_of)
    maker = ListMaker(shop, cases, file, k=k)
    with progress("lists", len(cases)) as bar:
        for begin in range(0, len(cases), _BATCH):
            maker.add(queries[begin : begin + _BATCH])
            bar.advance(min(_BATCH, len(cases) - begin))
    maker.close()


def profile_columns(catalog: Catalog) -> list[str]:
    """Names."""
    return [] if catalog.users is None else [name for name in catalog.users.column_names if name != "user_id"]


def falling(items: np.ndarray) -> np.ndarray:
    """float32 scores that keep the order of lists (R, k)."""
    places = np.broadcast_to(-np.arange(items.shape[1], dtype=np.float32), items.shape)
    return np.where(items >= 0, places, -np.inf).astype(np.float32)


def write_warm_lists(shop: Shop, file: Path, *, most: int, negatives: int) -> None:
    """Training events with drawn negatives: half by training count to the power ¾, half alike; none of the history."""
    train, rng = shop.split.train, np.random.default_rng(_WARM_SEED)
    place = np.arange(len(train.items))
    later = np.flatnonzero(place > train.offsets[train.rows])
    events = np.sort(rng.permutation(later)[:most])
    counts = train.item_counts(len(shop.catalog.items)).astype(np.float64) ** 0.75
    bounds = np.cumsum(counts / counts.sum())
    ids, profile_of, rows = shop.catalog.events.user_ids, shop.catalog.profile_of, train.rows
    with ListWriter(file, evidence=(), profile=profile_columns(shop.catalog), items=shop.catalog.digest) as writer:
        for begin in range(0, len(events), _BATCH):
            chosen = events[begin : begin + _BATCH]
            histories = [train.items[train.offsets[rows[event]] : event] for event in chosen]
            drawn = _drawn(len(chosen), negatives, bounds, rng)
            candidates = [
                np.concatenate([[train.items[event]], np.setdiff1d(own, [*past, train.items[event]])])
                for event, own, past in zip(chosen, drawn, histories, strict=True)
            ]
            ragged = Ragged.of(candidates)
            labels = np.zeros(len(ragged.values), np.float32)
            labels[ragged.offsets[:-1]] = 1
            asked = Asked(
                users=[ids[rows[event]] for event in chosen],
                profiles=[profile_of(int(rows[event])) for event in chosen],
                histories=Ragged.of(histories),
                candidates=ragged,
                evidence=np.empty((len(labels), 0), np.float32),
            )
            writer.write(Lists(asked=asked, labels=labels, units=rows[chosen].astype(np.int64)))


def sampled(cases: Cases, most: int) -> Cases:
    """At most so many cases, by a fixed seed, in their old order."""
    return cases.subset(np.sort(np.random.default_rng(0).permutation(len(cases))[:most]))


def _parts(
    rows: np.ndarray, users: np.ndarray, fusion: Fusion, halves: Halves | None
) -> Iterator[tuple[np.ndarray, Fusion]]:
    if halves is None:
        yield rows, fusion
        return
    for second in (False, True):
        part = rows[np.isin(users, halves.second) == second]
        if len(part):
            yield part, halves.fusions[int(second)]


def _rows(found: Candidates, rows: np.ndarray) -> Candidates:
    return Candidates(items=found.items[rows], scores=found.scores[rows])


def _drawn(rows: int, count: int, bounds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int (rows, count) items."""
    popular = np.searchsorted(bounds, rng.random((rows, count // 2)))
    alike = rng.integers(len(bounds), size=(rows, count - count // 2))
    return np.minimum(np.concatenate([popular, alike], axis=1), len(bounds) - 1)
