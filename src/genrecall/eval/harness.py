"""Every channel under the same rules: ask for lists, find the target, count."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.catalog.split import Cases
from genrecall.errors import ConfigError
from genrecall.eval.asking import answers
from genrecall.eval.calibration import confidence
from genrecall.eval.evaluation import ChannelResult, Evaluation, summarise
from genrecall.eval.lists import ListFigures
from genrecall.eval.lock import Final, unlock
from genrecall.eval.metrics import gains, headline_cut, ranks_of
from genrecall.eval.protocol import Protocol
from genrecall.eval.significance import RESAMPLES
from genrecall.eval.slices import slice_masks
from genrecall.recall.channel import Channel, Query

Profile = Callable[[int], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """What is the same for every channel."""

    cases: Cases
    protocol: Protocol
    masks: Mapping[str, Mapping[str, np.ndarray]]
    num_items: int
    train_counts: np.ndarray
    vectors: np.ndarray | None
    groups: np.ndarray | None
    log_scores: Collection[str]
    k: int
    batch: int
    profile: Profile | None
    resamples: int
    seed: int


def evaluate(
    channels: Sequence[Channel],
    cases: Cases,
    *,
    num_items: int,
    protocol: Protocol,
    train_counts: np.ndarray,
    final: Final | None = None,
    k: int = 50,
    batch: int = 256,
    profile: Profile | None = None,
    log_scores: Collection[str] = (),
    vectors: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Rank the catalog for every case with every channel.

    Args:
        channels: distinct names.
        cases: N ≥ 1 questions with answers; test cases are refused without ``final``.
        num_items: I.
        protocol: the rules; ``history="removed"`` makes each history the query's ``exclude``.
        train_counts: int (I,) training events by item, for popularity slices and novelty.
        final: leave to read the test part; the reading is recorded before the first case is asked.
        k: length of the lists; at least the largest cut-off.
        batch: queries a call.
        profile: profile columns of a user index.
        log_scores: names of channels whose scores are log-probabilities of items: their calibration can be told.
        vectors: float (I, D) item vectors, for the diversity of lists.
        groups: int (I,) a category or SID prefix ≥ 0 by item, for the diversity of lists where there are no vectors.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ConfigError: there is nothing to ask, or the test part is locked.
    """
    require_task([channel.name for channel in channels], len(cases), k, protocol.ks)
    readings = _unlock(cases, protocol, final)
    task = _Task(
        cases=cases,
        protocol=protocol,
        masks=slice_masks(cases.targets, cases.histories.lengths, train_counts),
        num_items=num_items,
        train_counts=train_counts,
        vectors=vectors,
        groups=groups,
        log_scores=log_scores,
        k=k,
        batch=batch,
        profile=profile,
        resamples=resamples,
        seed=seed,
    )
    return Evaluation(
        protocol=protocol,
        part=cases.part,
        num_items=num_items,
        users=cases.users,
        cases=_digest(cases),
        unreachable=_targets_in_history(cases) if protocol.history == "removed" else 0,
        masks=task.masks,
        results={channel.name: _measure(channel, task) for channel in channels},
        resamples=resamples,
        seed=seed,
        readings=readings,
    )


def queries_of(
    cases: Cases, protocol: Protocol, profile: Profile | None = None, *, final: Final | None = None
) -> list[Query]:
    """The queries of the cases, as every channel gets them; those of test cases are refused without ``final``."""
    _unlock(cases, protocol, final)
    return _queries(cases, protocol, profile, 0, len(cases))


def require_task(names: Sequence[str], count: int, k: int, ks: Sequence[int]) -> None:
    """Refuse what cannot be evaluated or told apart."""
    if count == 0 or not names or k < max(ks) or len(set(names)) < len(names):
        raise ConfigError(
            "there is nothing to evaluate, or it cannot be told apart",
            seen=f"{count} cases, k={k}, channels {', '.join(names) or 'none'}",
            allowed=f"at least one case, k >= {max(ks)}, distinct channel names",
            fix="use a split that holds out events (users need three or more), or correct k and the channels' names",
        )


def _unlock(cases: Cases, protocol: Protocol, final: Final | None) -> int:
    split = f"{protocol.split}; {protocol.ties}; repeats: {protocol.repeats}"
    return unlock(cases.part, final, split=split, cases=len(cases), protocol=protocol.sentence())


def _queries(cases: Cases, protocol: Protocol, profile: Profile | None, begin: int, end: int) -> list[Query]:
    queries = []
    for case in range(begin, end):
        history = cases.histories.of(case)
        queries.append(
            Query(
                history=history,
                times=cases.histories.times_of(case) if cases.histories.timed else None,
                exclude=np.unique(history) if protocol.history == "removed" else np.empty(0, np.int32),
                profile=profile(int(cases.users[case])) if profile is not None else {},
            )
        )
    return queries


def _measure(channel: Channel, task: _Task) -> ChannelResult:
    cases, ks = task.cases, task.protocol.ks
    cut, log_scores = headline_cut(ks), channel.name in task.log_scores
    ranks, sure = np.zeros(len(cases), np.int32), np.zeros(len(cases), np.float32)
    lists = ListFigures(ks, cut, task.train_counts, task.vectors, task.groups)
    seconds = 0.0

    def ask(begin: int, end: int) -> list[Query]:
        return _queries(cases, task.protocol, task.profile, begin, end)

    for begin, answer, took in answers(channel, ask, len(cases), num_items=task.num_items, k=task.k, batch=task.batch):
        end = begin + len(answer.items)
        ranks[begin:end] = ranks_of(answer.items, cases.targets[begin:end])
        sure[begin:end] = confidence(answer, cut, log_scores=log_scores)
        lists.add(answer.items)
        seconds += took
    return summarise(
        channel.name,
        gains(ranks, ks)[None].astype(np.float32),
        metrics=task.protocol.metric_names(),
        users=cases.users,
        masks=task.masks,
        lists=lists.figures(),
        seconds=seconds,
        resamples=task.resamples,
        seed=task.seed,
        ranks=ranks[None],
        confidence=sure[None],
        log_scores=log_scores,
    )


def _digest(cases: Cases) -> str:
    total = hashlib.sha256(cases.histories.digest.encode())
    for array in (cases.users, cases.targets):
        total.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return f"sha256:{total.hexdigest()}"


def _targets_in_history(cases: Cases) -> int:
    """Cases whose target is an item of their own history."""
    same = cases.histories.items == cases.targets[cases.histories.rows]
    return len(np.unique(cases.histories.rows[same]))
