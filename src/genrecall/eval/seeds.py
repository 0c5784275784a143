"""Several runs that differ in their seed, as one evaluation.

    x̄ = Σ_s x_s / S      sd = √(Σ_s (x_s − x̄)² / (S − 1))      interval: bootstrap over users of Σ_s gain_s(case) / S

Bouthillier et al., "Accounting for variance in machine learning benchmarks" (MLSys 2021): the data's variance and the
seeds' are told apart. The interval resamples users with the seeds averaged case by case, and says how far the cases
decide; the standard deviation says how far the seed does. Deviation: the two are not added to one interval, since three
seeds are too few to resample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.errors import ConfigError
from genrecall.eval.evaluation import ChannelResult, Evaluation, summarise
from genrecall.eval.store import NAME, load


def merge(evaluations: Sequence[Evaluation], names: Sequence[str]) -> Evaluation:
    """One evaluation of S runs on the same cases under the same rules.

    Args:
        evaluations: S ≥ 1, each of one run.
        names: of the runs, for the reader.

    Raises:
        ConfigError: they differ in anything but the seed.
    """
    assert len(evaluations) == len(names) > 0
    first = evaluations[0]
    if len(evaluations) == 1:
        return first
    _require_equal("rules", [_rules(found) for found in evaluations], names)
    _require_equal("part of the split", [found.part for found in evaluations], names)
    _require_equal("cases", [found.cases for found in evaluations], names)
    _require_equal("channels", [", ".join(found.results) for found in evaluations], names)
    _require_equal("number of runs in it", [found.num_runs for found in evaluations], names, allowed=1)
    return Evaluation(
        protocol=first.protocol,
        part=first.part,
        num_items=first.num_items,
        users=first.users,
        cases=first.cases,
        unreachable=first.unreachable,
        masks=first.masks,
        results={name: _merged([found.results[name] for found in evaluations], first) for name in first.results},
        resamples=first.resamples,
        seed=first.seed,
        readings=max(found.readings for found in evaluations),
        runs=tuple(names),
    )


def merge_files(paths: Sequence[Path]) -> Evaluation:
    """Merge stored evaluations (files, or directories with ``eval.json``); a run is named by its directory or file."""
    loaded = [load(path) for path in paths]
    bundles = [str(told.get("bundle", "")) for _, told in loaded]
    if len(set(bundles)) < len(bundles) and any(bundles):
        raise ConfigError(
            "the same bundle stands twice among the runs",
            seen=", ".join(f"{path}: {bundle[:19]}" for path, bundle in zip(paths, bundles, strict=True)),
            allowed="one evaluation of each seed's bundle",
            fix="leave out the repeated run",
        )
    names = [str(path.parent if path.name == NAME else path.with_suffix("")) for path in paths]
    return merge([evaluation for evaluation, _ in loaded], names)


def _merged(results: Sequence[ChannelResult], like: Evaluation) -> ChannelResult:
    def stacked(of: Callable[[ChannelResult], np.ndarray | None]) -> np.ndarray | None:
        arrays = [array for result in results if (array := of(result)) is not None]
        return np.concatenate(arrays) if len(arrays) == len(results) else None

    rates = [result.invalid_sid_rate for result in results if result.invalid_sid_rate is not None]
    return summarise(
        results[0].name,
        np.concatenate([result.gains for result in results]),
        metrics=like.protocol.metric_names(),
        users=like.users,
        masks=like.masks,
        lists={key: float(np.mean([result.lists[key] for result in results])) for key in results[0].lists},
        seconds=float(np.mean([result.seconds for result in results])),
        resamples=like.resamples,
        seed=like.seed,
        ranks=stacked(lambda result: result.ranks),
        confidence=stacked(lambda result: result.confidence),
        log_scores=results[0].log_scores,
        invalid_sid_rate=max(rates) if rates else None,
    )


def _rules(evaluation: Evaluation) -> str:
    return f"{evaluation.num_items:,} items; {evaluation.protocol.sentence()}"


def _require_equal(what: str, values: Sequence[Any], names: Sequence[str], allowed: Any = None) -> None:
    expected = values[0] if allowed is None else allowed
    for value, name in zip(values, names, strict=True):
        if value != expected:
            raise ConfigError(
                f"these runs cannot be averaged: they differ in their {what}",
                seen=f"{name}: {value}",
                allowed=f"{names[0]}: {expected}" if allowed is None else str(allowed),
                fix="evaluate every seed's bundle on the same catalog, part, cases and rules",
            )
