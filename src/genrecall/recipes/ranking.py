"""From a bundle to a ranker: lists of validation cases, a warm-up on training events, the fit, and the judging.

Targets of the lists are validation targets, which no channel and no generator was trained on; negatives are the same
request's other candidates. None of our data sets has exposures, so this is the sampling: AUC and LogLoss compare
rankers within one table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from genrecall.artifacts import Artifact, is_current, open_artifact, write_artifact
from genrecall.bundle.contents import Contents
from genrecall.bundle.load import Recommender
from genrecall.catalog.split import Cases, Split
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError, ConfigError
from genrecall.eval.harness import queries_of
from genrecall.rank.columns import Asked, Ragged, item_columns
from genrecall.rank.features import Features
from genrecall.rank.fit import Data, FitConfig, fit_ranker
from genrecall.rank.lists import ListReader, Lists, ListWriter
from genrecall.rank.model import NetworkConfig
from genrecall.rank.recalled import SID_SCORE, evidence_names, read_candidates, recalled
from genrecall.rank.sampling import shaped
from genrecall.rank.schema import Schema
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.fusion import Fusion
from genrecall.recipes.rank_schema import default_schema, vocabularies_of
from genrecall.recipes.recipe import SplitConfig
from genrecall.serve.default import default_channels, fusion_of
from genrecall.telemetry import progress
from genrecall.text.vectors import Vectors

KIND = "ranker"
_BATCH, _WARM_SEED = 128, 7
Blocks = Literal["joint", "sparse", "dense", "joint+recall", "sparse+recall", "dense+recall"]
BLOCKS: tuple[Blocks, ...] = ("joint+recall", "joint", "sparse", "dense", "sparse+recall", "dense+recall")


@dataclass(frozen=True, kw_only=True)
class RankRecipe:
    """Settings of a ranker.

    Attributes:
        blocks: what it reads: sparse features, the dense language model, both (joint), each with or without recall's
            own numbers.
        candidates: of a list.
        cases: validation cases that lists are made of, at most.
        warm_events: training events of the warm-up, at most; 0 leaves it out.
        warm_negatives: of each.
        vectors: width that the items' text vectors are brought to by principal components.
        network, fit: see there.
    """

    blocks: Blocks = "joint+recall"
    candidates: int = 100
    cases: int = 20_000
    warm_events: int = 100_000
    warm_negatives: int = 30
    vectors: int = 64
    network: NetworkConfig = field(default_factory=NetworkConfig)
    fit: FitConfig = field(default_factory=FitConfig)


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
        split: that its parts were fitted under.
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
            parents={name: digest for name, digest in parents.items() if name != KIND},
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


def write_warm_lists(shop: Shop, recipe: RankRecipe, file: Path) -> None:
    """Training events with drawn negatives: half by training count to the power ¾, half alike; none of the history."""
    train, rng = shop.split.train, np.random.default_rng(_WARM_SEED)
    place = np.arange(len(train.items))
    later = np.flatnonzero(place > train.offsets[train.rows])
    events = np.sort(rng.permutation(later)[: recipe.warm_events])
    counts = train.item_counts(len(shop.catalog.items)).astype(np.float64) ** 0.75
    bounds = np.cumsum(counts / counts.sum())
    ids, profile_of, rows = shop.catalog.events.user_ids, shop.catalog.profile_of, train.rows
    with ListWriter(file, evidence=(), profile=profile_columns(shop.catalog), items=shop.catalog.digest) as writer:
        for begin in range(0, len(events), _BATCH):
            chosen = events[begin : begin + _BATCH]
            histories = [train.items[train.offsets[rows[event]] : event] for event in chosen]
            drawn = _drawn(len(chosen), recipe.warm_negatives, bounds, rng)
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


def train_ranker(
    shop: Shop, vectors: Vectors | None, recipe: RankRecipe, out: Path, work: Path, *, force: bool = False
) -> Artifact:
    """Fit a ranker and write it as an artifact; one that is current is kept, and so are lists in ``work``."""
    config = {"recipe": asdict(recipe), "fusion": asdict(shop.fusion.config)}
    parents = dict(shop.parents)
    if vectors is not None:
        parents["vectors"] = vectors.digest
    if not force and is_current(out, kind=KIND, config=config, parents=parents):
        return open_artifact(out, kind=KIND)
    lists, warm = made_lists(shop, recipe, work)
    reader = ListReader(lists)
    state = next(reader.batches(1)).asked.state
    schema = block_schema(shop, reader.evidence, 0 if state is None else state.shape[1], vectors, recipe)
    counts = shop.split.train.item_counts(len(shop.catalog.items))
    items = item_columns(shop.catalog.items, schema, counts)
    vocabularies = vocabularies_of(schema, items, shop.catalog)
    data = Data(
        features=Features(schema, items, vocabularies),
        vocabularies=vocabularies,
        vectors=None if vectors is None or not schema.vectors else principal(vectors.matrix, schema.vectors),
        lists=reader,
        warm=ListReader(warm) if recipe.warm_events else None,
    )
    ranker, report = fit_ranker(data, recipe.network, recipe.fit)
    with write_artifact(out, kind=KIND, config=config, parents=parents) as writer:
        ranker.save(writer.path, half=recipe.fit.half)
        writer.facts |= {"report": report}
    return open_artifact(out, kind=KIND)


def made_lists(shop: Shop, recipe: RankRecipe, work: Path) -> tuple[Path, Path]:
    """Lists of validation cases and of training events, made once for one bundle, fusion and recipe."""
    told = {
        "parts": dict(shop.parents), "fusion": asdict(shop.fusion.config), "candidates": recipe.candidates,
        "cases": recipe.cases, "warm": [recipe.warm_events, recipe.warm_negatives],
    }  # fmt: skip
    if not is_current(work, kind="rank-lists", config=told):
        cases = sampled(shop.split.valid, recipe.cases)
        if len(cases) == 0:
            raise ConfigError(
                "there are no validation cases to rank",
                seen="a split without any",
                allowed="a split that holds validation events out",
                fix="use another --split, or users with three or more events",
            )
        with write_artifact(work, kind="rank-lists", config=told) as writer:
            write_lists(shop, cases, writer.path / "lists.parquet", k=recipe.candidates)
            write_warm_lists(shop, recipe, writer.path / "warm.parquet")
    stored = open_artifact(work, kind="rank-lists")
    return stored.file("lists.parquet"), stored.file("warm.parquet")


def block_schema(
    shop: Shop, evidence: Sequence[str], state: int, vectors: Vectors | None, recipe: RankRecipe
) -> Schema:
    """The default schema, less what the recipe's blocks leave out."""
    schema, (block, _, recall) = default_schema(shop.catalog, shop.split.train), recipe.blocks.partition("+")
    said = [name for name in evidence if recall or name == SID_SCORE]
    if block == "sparse":
        said = [name for name in said if name != SID_SCORE]
    dense = block != "sparse"
    return replace(
        schema,
        columns=schema.columns if block != "dense" else (),
        features=schema.features if block != "dense" else (),
        evidence=tuple(said),
        state=state if dense else 0,
        vectors=min(recipe.vectors, vectors.matrix.shape[1]) if dense and vectors is not None else 0,
    )


def principal(matrix: np.ndarray, width: int) -> np.ndarray:
    """float32 (I, width) principal components of vectors, each of unit variance."""
    centred = matrix.astype(np.float64) - matrix.mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    kept = left[:, :width] * (size[:width] > 1e-6)
    return (kept * np.sqrt(len(matrix))).astype(np.float32)


def sampled(cases: Cases, most: int) -> Cases:
    """At most so many cases, by a fixed seed, in their old order."""
    return cases.subset(np.sort(np.random.default_rng(0).permutation(len(cases))[:most]))


def ranked(ranker: Ranker, reader: ListReader, k: int) -> Candidates:
    """The first ``k`` of every list of a file, in the ranker's order."""
    items, scores = [], []
    for lists in reader.batches(_BATCH):
        asked = shaped(lists, reader, ranker.schema).asked
        found = ranker.score(asked)
        owner, offsets = asked.candidates.owner, asked.candidates.offsets
        order = np.lexsort((-found.logits, owner))
        column = np.arange(len(order)) - offsets[owner]
        kept = column < k
        rows = (owner[kept], column[kept])
        best, value = np.full((len(lists), k), -1, np.int32), np.full((len(lists), k), -np.inf, np.float32)
        best[rows], value[rows] = asked.candidates.values[order[kept]], found.logits[order[kept]]
        items.append(best)
        scores.append(value)
    return Candidates(items=np.concatenate(items), scores=np.concatenate(scores))


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
