"""The parallel-codes head of a study, for the table beside the hierarchical one: long product codes, then a channel."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from genrecall.artifacts import is_current, open_artifact, write_artifact
from genrecall.catalog.split import Split
from genrecall.catalog.store import Catalog
from genrecall.recall.parallel import ParallelChannel, ParallelConfig
from genrecall.recall.validation import Validation
from genrecall.recipes.study import Study
from genrecall.sid.build import SidConfig, build_sids, is_built
from genrecall.sid.pq import PqConfig
from genrecall.sid.table import SidTable
from genrecall.telemetry import log
from genrecall.text.vectors import Vectors
from genrecall.train.sequence.soft import SoftTargets

_WEIGHTS = "channel.safetensors"
PRODUCT_CODES = SidConfig(
    levels=32, codes=256, quantizer="pq", pq=PqConfig(whiten=0.5), collisions="keep", collaborative_weight=0.5
)
"""Codes that depend on nothing but their own part of the vector; items that share all of them are rare and do no harm,
for every item is scored."""


def parallel(
    catalog: Catalog,
    vectors: Vectors,
    split: Split,
    study: Study,
    out: Path,
    config: ParallelConfig | None = None,
    *,
    codes: SidConfig = PRODUCT_CODES,
    soft: SoftTargets | None = None,
) -> ParallelChannel:
    """The fitted channel; ``sid`` and ``channel`` artifacts in ``out`` are made once.

    Args:
        catalog, vectors, split, study: of the run; window, seed and device are the study's.
        out: directory.
        config: settings; None: the sizes and the schedule of the study's generators.
        codes: how SIDs are made.
        soft: a teacher's targets.
    """
    codes = replace(codes, seed=study.seed)
    config = config or _suited_to(study)
    train = replace(config.train, window=study.train.window, seed=study.seed, device=study.train.device)
    config = replace(config, codes=codes.codes, train=train)
    histories = split.train if codes.needs_behaviour else None
    if not is_built(out / "sid", codes, catalog, vectors, histories):
        build_sids(catalog, vectors, out=out / "sid", config=codes, histories=histories)
    table = SidTable.load(out / "sid")
    target, settings = out / "channel", {"channel": "parallel", **asdict(config), "train": train.identity()}
    parents = {"sid": table.digest, "histories": split.train.digest}
    if soft is not None:
        parents["teacher"] = soft.digest
    if not is_current(target, kind="channel", config=settings, parents=parents):
        removed = study.split.history == "removed"
        sample = study.validation_cases
        validate = Validation(split.valid, removed=removed, sample=sample) if len(split.valid) else None
        channel = ParallelChannel.trained(
            split.train, table.sids, config, soft=soft, validate=validate, work=out / "channel.work"
        )
        assert channel.result is not None
        log(f"parallel: {channel.result.epochs:.0f} epochs in {channel.result.seconds:.0f} s")
        with write_artifact(target, kind="channel", config=settings, parents=parents) as writer:
            state = {name: np.ascontiguousarray(array) for name, array in channel.state().items()}
            save_file(state, writer.path / _WEIGHTS)
            writer.facts |= asdict(channel.result)
    state = load_file(open_artifact(target, kind="channel").file(_WEIGHTS))
    return ParallelChannel.from_state(state, config, device=train.device)


def _suited_to(study: Study) -> ParallelConfig:
    trunk = study.trunk
    return ParallelConfig(
        width=trunk.width,
        layers=trunk.layers,
        heads=trunk.heads,
        dropout=trunk.dropout,
        item_dropout=trunk.item_dropout,
        train=replace(study.train, adamw_only=("turns", "answers")),
    )
