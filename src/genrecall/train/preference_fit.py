"""Rounds of preference training: propose, learn, keep what validates better.

    trunk ──▶ propose(trunk) ──▶ fit(policy against reference) ──▶ better? ──▶ trunk, next round
                                                                      └─ no ──▶ the weights as they were, the end

The reference is the model at the very beginning, in every round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genrecall import hardware
from genrecall.catalog.histories import Histories
from genrecall.index.trie import Trie
from genrecall.model.trunk import ItemTrunk
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.telemetry import log
from genrecall.train.attention import float32_attention
from genrecall.train.norm import cheap_norms
from genrecall.train.preference import PreferenceConfig, PreferenceLearner, Rejected
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.fit import fit
from genrecall.train.sequence.result import FitResult
from genrecall.train.trunk_data import sequence_data


@dataclass(frozen=True, kw_only=True)
class PreferenceResult:
    """What the rounds brought.

    Attributes:
        before, after: validation; equal where nothing was better.
        rounds: of those that were run, each one's figures.
        tried: the last round's best weights, whether or not the trunk has them now.
    """

    before: float
    after: float
    rounds: tuple[FitResult, ...]
    tried: ItemTrunk

    @property
    def improved(self) -> bool:
        """Whether the trunk's weights changed."""
        return self.after > self.before


def prefer(
    trunk: ItemTrunk,
    trie: Trie,
    sids: np.ndarray,
    histories: Histories,
    config: PreferenceConfig,
    *,
    prompt: ItemPrompt,
    profile_of: Callable[[int], Mapping[str, str]],
    normalise: str,
    propose: Callable[[ItemTrunk], Rejected],
    validate: Callable[[ItemTrunk], float],
    work: Path | None = None,
    identity: Mapping[str, Any] | None = None,
) -> PreferenceResult:
    """Train in place; the trunk ends with the best weights that validation saw, which may be those it came with.

    Args:
        trunk: trained.
        trie: of its SIDs.
        sids: int (I, L).
        histories: training events only.
        config: settings; ``train.window`` is the model's.
        prompt: the same that serves.
        profile_of: profile columns by row of ``histories``.
        normalise: "trie" or "level".
        propose: makes the negatives of all events with a model.
        validate: a figure to maximise, of a model in evaluation mode.
        work: directory for checkpoints and figures of the rounds; None keeps nothing.
        identity: what else makes this run what it is.
    """
    plain = sequence_data(histories, prompt, profile_of)
    context = np.maximum(histories.lengths - config.last, 1)
    counts = histories.item_counts(len(sids))
    drops = trunk.config.dropout if config.dropout is None else config.dropout
    policy, reference = (_like(trunk, sids, dropout) for dropout in (drops, 0.0))
    device = hardware.pick_device(config.train.device)
    on_cpu = device.type == "cpu" and hardware.has_bf16(device)
    before = best = validate(trunk)
    results: list[FitResult] = []
    with ExitStack() as patched:
        for decoder in (policy.trunk, policy.depth, reference.trunk, reference.depth):
            patched.enter_context(float32_attention(decoder, active=on_cpu))
            patched.enter_context(cheap_norms(decoder, active=True))
        for number in range(config.rounds):
            rejected = propose(trunk)
            policy.load_state_dict(trunk.state_dict())
            learner = PreferenceLearner(policy, reference, trie, sids, counts, config, normalise=normalise)
            result = fit(
                learner,
                replace(plain, beside_targets=rejected.beside(), context=context),
                _shifted(config.train, number),
                validate=lambda learning: validate(learning.policy.model),
                work=None if work is None else work / f"round-{number}",
                identity={**(identity or {}), "preference": asdict(config), "negatives": rejected.digest},
                label=f"preference, round {number + 1}",
            )
            results.append(result)
            if result.best is None or result.best <= best:
                log(f"round {number + 1}: {result.best or 0:.4f} is no better than {best:.4f}; its weights are left")
                break
            best = result.best
            trunk.load_state_dict(policy.state_dict())
    return PreferenceResult(before=before, after=best, rounds=tuple(results), tried=policy.eval())


def _like(trunk: ItemTrunk, sids: np.ndarray, dropout: float) -> ItemTrunk:
    """The same weights, with this much dropout and no blanked items."""
    copy = ItemTrunk(
        replace(trunk.config, dropout=dropout, item_dropout=0.0), trunk.space, sids, prefix_rows=trunk.prefix_rows,
        prefix_length=trunk.prefix_length, sessions=trunk.sessions,
    )  # fmt: skip
    copy.load_state_dict(trunk.state_dict())
    return copy


def _shifted(config: SequenceConfig, number: int) -> SequenceConfig:
    """Another round has another order."""
    return replace(config, seed=config.seed + number)
