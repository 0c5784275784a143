"""One process's part of a batch: the same channels, fusion and fallback as online, many users at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from genrecall.bundle.contents import Contents
from genrecall.bundle.load import Recommender
from genrecall.catalog.histories import Histories
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.rank.columns import Asked, Ragged
from genrecall.rank.recalled import Recalled, read_candidates
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Candidates, Channel, Query
from genrecall.recall.fusion import Explained
from genrecall.serve.answering import evident, reordered
from genrecall.serve.batch.shards import Shards
from genrecall.serve.default import FALLBACK, default_channels, depth_of, fusion_of
from genrecall.serve.ranking import DEPTH
from genrecall.telemetry import log, progress


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What decides the output, and nothing else.

    Attributes:
        k: items a user.
        exclude_seen: leave out the items of the history.
        shard_users: users of one shard: what a killed process loses at most.
        batch_users: users that are asked for at once.
    """

    k: int = 10
    exclude_seen: bool = True
    shard_users: int = 4096
    batch_users: int = 64

    def __post_init__(self) -> None:
        for name in ("k", "shard_users", "batch_users"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} must be positive", seen=getattr(self, name), allowed="1 or more", fix=f"raise {name}"
                )


def run_batch(bundle: Path, catalog: Path, out: Path, config: BatchConfig, *, device: str = "auto") -> bool:
    """Work on what is not done yet; whether everything is done now.

    Any number of processes may run this at once, also on other machines that share the directory's file system.

    Args:
        bundle: directory.
        catalog: whose users are asked for, with their whole histories.
        out: directory of the output: Parquet of ``user_id``, ``item_ids``, ``scores``, ``filled``.
        config: settings.
        device: of the engine; it decides rounding, so one batch should keep to one kind.
    """
    contents, users = Contents.open(bundle), Catalog.load(catalog)
    total = users.events.num_users
    plan = {
        "bundle": contents.digest,
        "catalog": users.digest,
        "users": total,
        "shards": -(-total // config.shard_users),
        **asdict(config),
    }
    shards = Shards(out, plan)
    if shards.finish():
        log(f"{out}: all {shards.count} shards are done")
        return True
    work = _Work(contents, Recommender.load(bundle, device=device), users, config)
    for shard in shards.todo():
        first = shard * config.shard_users
        shards.write(shard, work.table(range(first, min(first + config.shard_users, total)), f"shard {shard}"))
    return shards.finish()


class _Work:
    """The bundle with its model, and the users."""

    def __init__(self, contents: Contents, shop: Recommender, users: Catalog, config: BatchConfig) -> None:
        self.contents, self.shop, self.users, self.config = contents, shop, users, config
        split = contents.split
        self.histories: Histories = users.events.histories(split["repeats"], split["tie_seed"])
        known: dict[str, Channel] = {"generative": shop.generative, **contents.channels}
        names = default_channels(contents, known)
        self.channels = [known[name] for name in names]
        self.fusion = fusion_of(contents, names, {})
        # Items of the users' catalog that the bundle knows, by its own numbers.
        index = contents.items.index
        self.number = np.array([index.get(item, -1) for item in users.items.ids], dtype=np.int32)

    def table(self, rows: range, label: str) -> pa.Table:
        """The answers for these users, in their order."""
        ids, items, scores, filled = [], [], [], []
        with progress(label, len(rows)) as bar:
            for begin in range(rows.start, rows.stop, self.config.batch_users):
                part = range(begin, min(begin + self.config.batch_users, rows.stop))
                for user, (found, values, count) in zip(part, self._answers(part), strict=True):
                    ids.append(self.users.events.user_ids[user])
                    items.append([self.contents.items.ids[item] for item in found])
                    scores.append(values)
                    filled.append(count)
                bar.advance(len(part))
        columns = {
            "user_id": pa.array(ids, pa.string()),
            "item_ids": pa.array(items, pa.list_(pa.string())),
            "scores": pa.array(scores, pa.list_(pa.float32())),
            "filled": pa.array(filled, pa.int32()),
        }
        return pa.table(columns)

    def _answers(self, users: Sequence[int]) -> list[tuple[list[int], list[float], int]]:
        queries = [self._query(user) for user in users]
        depth = depth_of(self.config.k, len(self.contents.items))
        lists = {channel.name: self._recall(channel, queries, depth) for channel in self.channels}
        lengths = np.array([len(query.history) for query in queries], dtype=np.int64)
        missing = [name for name in self.fusion.config.channels if name not in lists]
        lists |= {name: _nothing(len(queries)) for name in missing}
        most = self.config.k if self.shop.ranker is None else max(self.config.k, DEPTH)
        fused = [evident(found) for found in self.fusion.explain(lists, most, lengths)]
        found = self._ranked(self.shop.ranker, users, queries, fused) if self.shop.ranker is not None else fused
        return [self._filled(query, own[: self.config.k]) for query, own in zip(queries, found, strict=True)]

    def _ranked(
        self, ranker: Ranker, users: Sequence[int], queries: Sequence[Query], fused: list[list[Explained]]
    ) -> list[list[Explained]]:
        """In the order of the bundle's ranker."""
        entries = [entry for own in fused for entry in own]
        if not entries:
            return fused
        recalled = Recalled(
            candidates=Ragged.of([[entry.item for entry in own] for own in fused]),
            scores=np.array([entry.score for entry in entries], np.float32),
            places={
                name: np.array([entry.ranks.get(name, 0) for entry in entries], np.int32)
                for name in self.fusion.config.channels
            },
        )
        sid_scores, states = read_candidates(self.shop.generative, queries, recalled.candidates)
        asked = Asked(
            users=[self.users.events.user_ids[user] for user in users],
            profiles=[query.profile for query in queries],
            histories=Ragged.of([query.history for query in queries]),
            candidates=recalled.candidates,
            evidence=recalled.evidence(ranker.schema.evidence, sid_scores),
            state=states if ranker.schema.state else None,
        )
        logits = np.split(ranker.score(asked).logits, recalled.candidates.offsets[1:-1])
        return [reordered(own, scored) for own, scored in zip(fused, logits, strict=True)]

    def _filled(self, query: Query, found: Sequence[Explained]) -> tuple[list[int], list[float], int]:
        items, scores = [entry.item for entry in found], [entry.score for entry in found]
        missing = self.config.k - len(items)
        if missing <= 0:
            return items, scores, 0
        exclude = np.concatenate((query.exclude, np.array(items, dtype=np.int32)))
        more = self.contents.channels[FALLBACK].recall([Query(exclude=exclude)], missing).items[0]
        more = more[more >= 0].tolist()
        return items + more, scores + [min([0.0, *scores])] * len(more), len(more)

    def _recall(self, channel: Channel, queries: Sequence[Query], depth: int) -> Candidates:
        """As online, where the generative channel is not asked about those of whom nothing is known."""
        if channel.name != "generative":
            return channel.recall(queries, depth)
        told = [row for row, query in enumerate(queries) if len(query.history)]
        items = np.full((len(queries), depth), -1, np.int32)
        scores = np.full((len(queries), depth), -np.inf, np.float32)
        if told:
            beam = max(self.contents.beam, min(self.config.k, len(self.contents.items)))
            asked = [queries[row] for row in told]
            found = channel.recall(asked, depth, beams=[beam] * len(told))  # type: ignore[call-arg]
            items[told], scores[told] = found.items, found.scores
        return Candidates(items=items, scores=scores)

    def _query(self, user: int) -> Query:
        numbers = self.number[self.histories.of(user)]
        known = numbers >= 0
        history = numbers[known]
        times = self.histories.times_of(user)[known] if self.histories.timed else None
        exclude = np.unique(history) if self.config.exclude_seen else np.empty(0, np.int32)
        return Query(history=history, times=times, exclude=exclude, profile=self.users.profile_of(user))


def _nothing(rows: int) -> Candidates:
    return Candidates(items=np.full((rows, 1), -1, np.int32), scores=np.full((rows, 1), -np.inf, np.float32))
