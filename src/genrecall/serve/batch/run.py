"""One process's part of a batch: many users at a time, in shards that are done once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from genrecall.bundle.contents import Contents
from genrecall.bundle.load import Recommender
from genrecall.catalog.histories import Histories
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError, ConfigError
from genrecall.recall.channel import Query
from genrecall.serve.batch.lists import Lists
from genrecall.serve.batch.shards import Shards
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
    shards = planned(contents, users, out, config)
    if shards.finish():
        log(f"{out}: all {shards.count} shards are done")
        return True
    work = Work(contents, Recommender.load(bundle, device=device), users, config)
    for shard in shards.todo():
        shards.write(shard, work.shard(shard))
    return shards.finish()


def planned(contents: Contents, users: Catalog, out: Path, config: BatchConfig) -> Shards:
    """The output directory of this batch, with its plan written.

    Raises:
        ArtifactError: the directory holds another batch, or no item of the catalog is in the bundle.
    """
    _require_known(contents, users)
    total = users.events.num_users
    plan = {
        "bundle": contents.digest,
        "catalog": users.digest,
        "users": total,
        "shards": -(-total // config.shard_users),
        **asdict(config),
    }
    return Shards(out, plan)


def _require_known(contents: Contents, users: Catalog) -> None:
    strange = [item for item in users.items.ids if item not in contents.items.index]
    if len(strange) == len(users.items):
        raise ArtifactError(
            "the catalog is not of this bundle",
            seen=f"{len(strange):,} items, such as {strange[0]}, of which the bundle holds none",
            allowed=f"a catalog whose users know items of the bundle's {len(contents.items):,}",
            fix="give the --catalog that the bundle was exported from, or a later one",
        )
    if strange:
        log(f"{len(strange):,} of {len(users.items):,} items are not in the bundle and left out of histories")


class Work:
    """The bundle with its model, and the users."""

    def __init__(self, contents: Contents, shop: Recommender, users: Catalog, config: BatchConfig) -> None:
        self.contents, self.users, self.config = contents, users, config
        self.lists = Lists(contents, shop, config.k)
        split = contents.split
        self.histories: Histories = users.events.histories(split["repeats"], split["tie_seed"])
        # Items of the users' catalog that the bundle knows, by its own numbers.
        index = contents.items.index
        self.number = np.array([index.get(item, -1) for item in users.items.ids], dtype=np.int32)

    def shard(self, number: int) -> pa.Table:
        """The answers of one shard."""
        first = number * self.config.shard_users
        last = min(first + self.config.shard_users, self.users.events.num_users)
        return self.table(range(first, last), f"shard {number}")

    def table(self, rows: range, label: str) -> pa.Table:
        """The answers for these users, in their order."""
        ids, items, scores, filled = [], [], [], []
        with progress(label, len(rows)) as bar:
            for begin in range(rows.start, rows.stop, self.config.batch_users):
                part = range(begin, min(begin + self.config.batch_users, rows.stop))
                names = [self.users.events.user_ids[user] for user in part]
                answers = self.lists.answer([self._query(user) for user in part], names)
                for name, listed in zip(names, answers, strict=True):
                    ids.append(name)
                    items.append([self.contents.items.ids[item] for item in listed.items])
                    scores.append(listed.scores)
                    filled.append(listed.filled)
                bar.advance(len(part))
        columns = {
            "user_id": pa.array(ids, pa.string()),
            "item_ids": pa.array(items, pa.list_(pa.string())),
            "scores": pa.array(scores, pa.list_(pa.float32())),
            "filled": pa.array(filled, pa.int32()),
        }
        return pa.table(columns)

    def _query(self, user: int) -> Query:
        numbers = self.number[self.histories.of(user)]
        known = numbers >= 0
        history = numbers[known]
        times = self.histories.times_of(user)[known] if self.histories.timed else None
        exclude = np.unique(history) if self.config.exclude_seen else np.empty(0, np.int32)
        return Query(history=history, times=times, exclude=exclude, profile=self.users.profile_of(user))
