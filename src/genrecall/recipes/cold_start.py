"""Cold start: items that no training event holds, written by a model that never saw them.

    hold the last tenth of the items out ──▶ SIDs and generators of the others ──▶ SIDs for the held-out ones, appended
                                             ──▶ Recall on the cases whose target is cold, the whole catalog ranked

Nothing of the cold items is used before their SIDs are appended: neither their events nor their texts. Beside the
generators stand the channels that find an item by its text alone, with the settings that suit warm targets best.

What helps, and what does not (Recall@50 on Beauty's cold validation targets, small models): SIDs from text alone
(0.064; 0.025 where behaviour, which new items lack, has half a say), text channels as teachers of histories (0.098),
more codes on fewer levels (3 x 512: 0.136), a stated bonus. Learning with the appended items in the trie (0.005), or
over all codes of a level (0.002), teaches that they are wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Cases, Split, hold_out_items
from genrecall.catalog.store import Catalog
from genrecall.engine.config import EngineConfig
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.harness import evaluate, queries_of
from genrecall.eval.lock import Final
from genrecall.recall.channel import Channel
from genrecall.recall.ensemble import EnsembleChannel
from genrecall.recall.generative import GenerativeChannel
from genrecall.recall.generator import open_generator
from genrecall.recall.promotion import PromotingChannel, fair_bonus
from genrecall.recall.teacher import TeacherConfig, soft_targets
from genrecall.recipes import baselines, generators
from genrecall.recipes.study import Study
from genrecall.sid.append import append_sids
from genrecall.text.vectors import Vectors
from genrecall.train.sequence.soft import SoftTargets

DEPTH = 50
_AMONG, _SAMPLE = 300, 500


@dataclass(frozen=True, kw_only=True, eq=False)
class WarmWorld:
    """What there was before the cold items came, with items numbered anew.

    Attributes:
        catalog: of the warm items.
        vectors: of the warm items.
        split: warm targets only, cold items left out of histories.
        warm: int32 their indices in the whole catalog, ascending.
        cold: int32 the others'.
    """

    catalog: Catalog
    vectors: Vectors
    split: Split
    warm: np.ndarray
    cold: np.ndarray

    @classmethod
    def of(cls, catalog: Catalog, vectors: Vectors, split: Split) -> WarmWorld:
        """Items with training events are warm."""
        vectors.require_items(catalog.items.ids)
        known = split.train.item_counts(len(catalog.items)) > 0
        warm, cold = (np.flatnonzero(which).astype(np.int32) for which in (known, ~known))
        number = np.cumsum(known, dtype=np.int32) - 1
        digest = hashlib.sha256(catalog.digest.encode() + cold.tobytes()).hexdigest()
        return cls(
            catalog=replace(catalog, items=catalog.items.select(warm), digest=f"sha256:{digest}", path=None),
            vectors=replace(
                vectors,
                item_ids=[vectors.item_ids[item] for item in warm.tolist()],
                matrix=vectors.matrix[warm],
                digest=f"sha256:{hashlib.sha256(vectors.digest.encode() + cold.tobytes()).hexdigest()}",
            ),
            split=replace(
                split,
                train=_renumbered(split.train, known, number),
                valid=_cases(split.valid, known, number),
                test=_cases(split.test, known, number),
            ),
            warm=warm,
            cold=cold,
        )


def cold_start(
    catalog: Catalog,
    vectors: Vectors,
    study: Study,
    out: Path,
    *,
    share: float = 0.1,
    taught_by: Sequence[str] = baselines.BY_TEXT,
    final: Final | None = None,
    cases: int | None = None,
) -> Evaluation:
    """Train without the newest items, append them, and judge the cases that ask for them.

    Args:
        catalog: with events.
        vectors: of all its items.
        study: of the generators; one is trained for each of its SID tables. See ``suited_to_cold``.
        out: directory of the artifacts.
        share: of the items with training events that are held out, those that appeared last.
        taught_by: channels that soften the targets, by the settings in ``study.teacher``, where there are any.
        final: leave to ask the test part; without it the validation cases are asked.
        cases: ask only so many, drawn by a fixed seed; stated in the protocol.

    Returns:
        The channels ``generative``, ``promoting`` (the same with a bonus for new items, chosen on histories of warm
        cases so that new items have their share of the places), ``lexical``, ``dense`` and ``popularity`` on the cold
        cases.
    """
    split, _ = hold_out_items(study.split.divide(catalog), share=share, seed=study.seed)
    world = WarmWorld.of(catalog, vectors, split)
    tuned = baselines.tune(world.catalog, world.vectors, world.split, study, out / "tuning")
    members = _members(catalog, vectors, world, study, _soft(world, study, tuned, taught_by), out)
    generative = members[0] if len(members) == 1 else EnsembleChannel(members)
    promoting = _promoting(generative, split, study, world, catalog)
    counts = split.train.item_counts(len(catalog.items))
    asked = (split.test if final else split.valid).of_items(world.cold)
    told = [
        f"only the {len(asked):,} cases whose target is cold; cold items got their SIDs by `sid append`",
        f"the generative channel scores items by trie-constrained SID probabilities of {len(members)} tables",
        f"the promoting channel adds {promoting.bonus:.2f} to the log-probability of items without training events, so "
        "that they have their share of the places in lists for warm targets",
    ]
    if cases is not None and cases < len(asked):
        told.append(f"{cases:,} of them, drawn at random (seed 0)")
        asked = asked.subset(np.sort(np.random.default_rng(0).permutation(len(asked))[:cases]))
    return evaluate(
        [
            generative,
            promoting,
            *(
                baselines.fitted(name, catalog, vectors, split.train, tuned[name])
                for name in (*baselines.BY_TEXT, "popularity")
            ),
        ],
        asked,
        num_items=len(catalog.items),
        protocol=study.split.protocol(split, remarks=tuple(told)),
        train_counts=counts,
        final=final,
        k=DEPTH,
        profile=catalog.profile_of,
        groups=members[0].table.sids[:, 0],
    )


def _members(
    catalog: Catalog, vectors: Vectors, world: WarmWorld, study: Study, soft: SoftTargets | None, out: Path
) -> Sequence[GenerativeChannel]:
    """Generators of the warm world, over tables that the cold items were appended to."""
    sids = generators.tables(world.catalog, world.vectors, world.split, study, out)
    lesson = None if soft is None else generators.Lesson(soft=soft)
    models = generators.generators(world.catalog, world.split, study, sids, lesson, out)
    counts = np.zeros(len(catalog.items), np.int64)
    counts[world.warm] = world.split.train.item_counts(len(world.warm))
    members = []
    for sid, model in zip(sids, models, strict=True):
        larger = append_sids(
            sid,
            catalog.items.ids,
            vectors.matrix,
            out=sid.with_name(f"{sid.name}-appended"),
            identity=vectors.identity,
            vectors_digest=vectors.digest,
        )
        normalise: Any = study.normalise  # checked by EngineConfig
        settings = EngineConfig(normalise=normalise, device=study.train.device)
        engine, prompts = open_generator(model, larger, catalog.items.titles, settings)
        members.append(GenerativeChannel(engine, prompts, larger, counts, study.generative))
    return members


def _soft(world: WarmWorld, study: Study, tuned: baselines.Configs, taught_by: Sequence[str]) -> SoftTargets | None:
    """What the named channels expect after each prefix of the warm histories."""
    if study.teacher is None or not taught_by:
        return None
    every = [generators.counted_teacher(name, world.catalog, world.vectors, study, tuned) for name in taught_by]
    told = soft_targets(every, world.split.train, study.teacher)
    digest = hashlib.sha256(told.items.tobytes() + told.weights.tobytes()).hexdigest()
    return replace(told, digest=f"sha256:{digest}")


def _promoting(channel: Channel, split: Split, study: Study, world: WarmWorld, catalog: Catalog) -> PromotingChannel:
    new = np.zeros(len(catalog.items), bool)
    new[world.cold] = True
    warm = split.valid.of_items(world.warm)
    some = warm.subset(np.sort(np.random.default_rng(1).permutation(len(warm))[:_SAMPLE]))
    queries = queries_of(some, study.split.protocol(split), catalog.profile_of)
    among = min(max(_AMONG, study.generative.beam), len(catalog.items))
    bonus = fair_bonus(channel.recall(queries, among), new, DEPTH)
    return PromotingChannel(channel, new, bonus, among=among)


def suited_to_cold(study: Study) -> Study:
    """The settings where new items matter most: SIDs from text alone, wide and shallow, and teachers that read."""
    tables = tuple(replace(table, levels=3, codes=2 * table.codes, collaborative_weight=0.0) for table in study.tables)
    teacher = TeacherConfig(trust=0.5, sharpness=2.0, items=32, removed=study.split.history == "removed")
    return replace(study, tables=tables, teacher=teacher)


def _renumbered(histories: Histories, known: np.ndarray, number: np.ndarray) -> Histories:
    kept = histories.select(known[histories.items])
    return replace(kept, items=number[kept.items])


def _cases(cases: Cases, known: np.ndarray, number: np.ndarray) -> Cases:
    kept = cases.subset(np.flatnonzero(known[cases.targets]))
    return replace(kept, targets=number[kept.targets], histories=_renumbered(kept.histories, known, number))
