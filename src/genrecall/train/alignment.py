"""Multi-task epochs: SIDs learnt from texts and texts from SIDs, beside or before the next item.

    n_t = round(N · share_t / Σ share),  N = n_next · Σ share / share_next,  or one answer an item and task on average

After the alignment tasks of LC-Rec (Zheng et al. 2024, arXiv 2311.09049). We deviate: an epoch holds exact shares, not
random ones; a task goes through all that it can ask before it asks anything again, across epochs; rows of all tasks are
packed together, so that every batch has about the same mixture; and answers are scored where they are asked, a SID over
valid codes, a text over the whole vocabulary, questions never. (seed, epoch) decides everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import DataError
from genrecall.prompt.prompt import PromptBuilder
from genrecall.telemetry import log
from genrecall.train.config import TrainConfig
from genrecall.train.corpus import Corpus
from genrecall.train.data import Batch, Examples, Profiles, pack
from genrecall.train.mixture import NEXT_ITEM
from genrecall.train.pools import Pool, pool_of
from genrecall.train.rows import Row
from genrecall.train.windows import Windows, batches


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """The rows of an epoch: windows of histories first, then what was drawn from the tasks' pools.

    Attributes:
        windows: of ``next_item``; None where the mixture has none.
        pool: int64 (D,) which task each drawn row belongs to.
        entry: int64 (D,) which of its task's questions it is.
        epoch: of the plan.
    """

    windows: Windows | None
    pool: np.ndarray
    entry: np.ndarray
    epoch: int

    @property
    def targets(self) -> np.ndarray:
        """int64 (N,) answers of each row."""
        drawn = np.ones(len(self.pool), dtype=np.int64)
        return drawn if self.windows is None else np.concatenate([self.windows.targets, drawn])


class MixedExamples:
    """Examples of several tasks; a source of batches like ``Examples``.

    Args:
        prompts: the same builder that serves.
        histories: training events only.
        profile_of: profile columns of a user.
        config: with a mixture.
        corpus: texts and queries.

    Raises:
        DataError: the catalog has nothing to ask for any of the tasks.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        histories: Histories,
        profile_of: Profiles | None,
        config: TrainConfig,
        corpus: Corpus,
    ) -> None:
        assert config.mixture is not None
        self.prompts, self.config, self.mixture = prompts, config, config.mixture
        self.next_item = Examples(prompts, histories, profile_of, config) if NEXT_ITEM in self.mixture.shares else None
        tasks = [task for task in self.mixture.tasks if task.name != NEXT_ITEM]
        built = [pool_of(task, prompts, histories, profile_of, corpus, self.mixture) for task in tasks]
        self.pools: list[Pool] = [pool for pool in built if len(pool)]
        empty = [pool.name for pool in built if not len(pool)]
        if empty:
            log(f"the catalog has nothing to ask for {', '.join(empty)}: left out of the mixture")
        if not self.pools and self.next_item is None:
            raise DataError(
                "the catalog has nothing to align with",
                seen=f"no text for any of {', '.join(self.mixture.shares)}",
                allowed="items with titles or other text columns named by the mixture",
                fix="import items with text, or choose other tasks",
            )
        self.counts: dict[str, int] = {}

    def plan(self, epoch: int) -> tuple[Draws, list[np.ndarray]]:
        """The epoch's rows, and its batches as arrays of row indices."""
        windows = self.next_item.plan(epoch)[0] if self.next_item is not None else None
        sizes = [] if self.next_item is None or windows is None else [self.next_item.sizes(windows)]
        counts = self._counts(0 if windows is None else int(windows.targets.sum()))
        entries = [
            _drawn(len(pool), count, seed=(self.config.seed, number), epoch=epoch)
            for number, (pool, count) in enumerate(zip(self.pools, counts, strict=True))
        ]
        sizes += [pool.sizes[entry] for pool, entry in zip(self.pools, entries, strict=True)]
        draws = Draws(
            windows=windows,
            pool=np.repeat(np.arange(len(self.pools)), counts),
            entry=np.concatenate([np.zeros(0, dtype=np.int64), *entries]),
            epoch=epoch,
        )
        groups = batches(
            np.concatenate(sizes),
            budget=self.config.batch_tokens,
            padded=False,
            seed=self.config.seed,
            epoch=epoch,
            alike=False,
        )
        return draws, groups

    def collate(self, plan: Draws, group: np.ndarray) -> Batch:
        """Rows of all tasks, packed."""
        return pack([self._row(plan, int(index)).trunk for index in group], self.prompts.vocabulary.pad)

    def facts(self) -> dict[str, Any]:
        """Questions and answers an epoch of each task that took part."""
        return {
            "mixture": {
                name: {"answers": count, "share": round(count / sum(self.counts.values()), 4)}
                for name, count in self.counts.items()
            },
            "questions": {pool.name: len(pool) for pool in self.pools},
        }

    def _row(self, plan: Draws, index: int) -> Row:
        if plan.windows is not None and self.next_item is not None:
            if index < len(plan.windows):
                return self.next_item.row(plan.windows, index)
            index -= len(plan.windows)
        number = int(plan.pool[index])
        rng = np.random.default_rng((self.config.seed, plan.epoch, number, index))
        return self.pools[number].row(int(plan.entry[index]), rng)

    def _counts(self, events: int) -> np.ndarray:
        """int64 (pools,) answers of an epoch beside ``events`` next items."""
        shares = np.asarray([self.mixture.shares[pool.name] for pool in self.pools])
        if self.next_item is not None:
            counts = np.round(events * shares / self.mixture.shares[NEXT_ITEM])
        else:
            wanted = self.mixture.answers or len(self.prompts.sids) * len(self.pools)
            counts = np.round(wanted * shares / shares.sum())
        counts = np.maximum(counts, 1).astype(np.int64)
        names = [pool.name for pool in self.pools]
        self.counts = {NEXT_ITEM: events} if self.next_item is not None else {}
        self.counts |= dict(zip(names, counts.tolist(), strict=True))
        return counts


def examples_of(
    prompts: PromptBuilder,
    histories: Histories,
    profile_of: Profiles | None,
    config: TrainConfig,
    corpus: Corpus | None,
) -> Examples | MixedExamples:
    """What the settings ask for: the next item alone, or a mixture of tasks over a corpus."""
    assert (corpus is None) == (config.mixture is None), "a corpus and its mixture come together"
    if len(histories.items) == 0 and (config.mixture is None or NEXT_ITEM in config.mixture.shares):
        raise DataError(
            "there is nothing to train on", seen=f"{len(histories)} users, 0 events", allowed="at least one event",
            fix="check the split, or import more events",
        )  # fmt: skip
    if corpus is None:
        return Examples(prompts, histories, profile_of, config)
    return MixedExamples(prompts, histories, profile_of, config, corpus)


def _drawn(size: int, count: int, *, seed: tuple[int, int], epoch: int) -> np.ndarray:
    """int64 (count,) entries of a pool: stretch number ``epoch`` of one endless row of permutations."""
    begin, end = epoch * count, (epoch + 1) * count
    rounds = range(begin // size, -(-end // size))
    line = np.concatenate([np.random.default_rng((*seed, number)).permutation(size) for number in rounds])
    return line[begin - rounds[0] * size :][:count]
