"""The channels beside the generative one: tuned on validation, or trained, each made once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrecall.artifacts import is_current, open_artifact, write_artifact
from genrecall.catalog.split import Cases, Split
from genrecall.catalog.store import Catalog
from genrecall.eval.harness import queries_of
from genrecall.recall.channel import Channel
from genrecall.recall.dense import DenseChannel, DenseConfig
from genrecall.recall.grids import counted_grids, tune_counted, tune_dense, tune_lexical
from genrecall.recall.lexical import LexicalChannel, LexicalConfig
from genrecall.recall.popularity import PopularityChannel, PopularityConfig
from genrecall.recall.sasrec import SasrecChannel
from genrecall.recall.validation import Validation
from genrecall.recipes.study import Study
from genrecall.telemetry import log
from genrecall.text.fields import default_template
from genrecall.text.vectors import Vectors

_CONFIGS, _WEIGHTS = "configs.json", "channel.safetensors"
_CASES = 4000


def counted(catalog: Catalog, vectors: Vectors, split: Split, study: Study, out: Path) -> dict[str, Channel]:
    """Channels without training: popularity, counts, text neighbours, with settings chosen on validation cases."""
    items, counts = len(catalog.items), split.train.item_counts(len(catalog.items))
    texts = default_template(catalog.items).render(catalog.items)
    parents = {"catalog": catalog.digest, "vectors": vectors.digest, "histories": split.train.digest}
    config = {"split": asdict(study.split), "cases": _CASES}
    if not is_current(out, kind="tuning", config=config, parents=parents):
        cases = _sampled(split.valid)
        queries, targets = queries_of(cases, study.split.protocol(split), catalog.profile_of), cases.targets
        tuned: dict[str, Any] = dict(tune_counted(split.train, items, queries, targets))
        tuned["lexical"] = tune_lexical(texts, counts, queries, targets)
        tuned["dense"] = tune_dense(vectors.matrix, counts, queries, targets)
        with write_artifact(out, kind="tuning", config=config, parents=parents) as writer:
            chosen = {name: {"config": asdict(found.config), "tried": found.table()} for name, found in tuned.items()}
            (writer.path / _CONFIGS).write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")
    chosen = configs(out)
    channels: dict[str, Channel] = {
        "popularity": PopularityChannel.fit(split.train, items, PopularityConfig(**chosen["popularity"]))
    }
    for name, (kind, grid) in counted_grids(split.train).items():
        channel: Any = kind.fit(split.train, items, type(grid.start)(**chosen[name]))
        channels[name] = channel.named(name)
    channels["lexical"] = LexicalChannel.fit(texts, counts, LexicalConfig(**chosen["lexical"]))
    channels["dense"] = DenseChannel.fit(vectors.matrix, counts, DenseConfig(**chosen["dense"]))
    return channels


def configs(tuning: Path) -> dict[str, dict[str, Any]]:
    """The chosen settings by channel."""
    stored = json.loads(open_artifact(tuning, kind="tuning").file(_CONFIGS).read_text(encoding="utf-8"))
    return {name: found["config"] for name, found in stored.items()}


def sasrec(catalog: Catalog, split: Split, study: Study, out: Path) -> SasrecChannel:
    """SASRec with the full softmax, stopped by NDCG@10 on validation cases."""
    settings = study.sasrec
    config = {"channel": "sasrec", **asdict(settings), "train": settings.train.identity()}
    parents = {"histories": split.train.digest}
    if not is_current(out, kind="channel", config=config, parents=parents):
        validate = Validation(_sampled(split.valid), removed=study.split.history == "removed")
        work = out.with_name(out.name + ".work")
        channel = SasrecChannel.fit(split.train, len(catalog.items), settings, validate=validate, work=work)
        assert channel.result is not None
        log(f"sasrec: {channel.result.epochs:.0f} epochs in {channel.result.seconds:.0f} s")
        with write_artifact(out, kind="channel", config=config, parents=parents) as writer:
            save_file(_contiguous(channel.state()), writer.path / _WEIGHTS)
            writer.facts |= asdict(channel.result)
    state = load_file(open_artifact(out, kind="channel").file(_WEIGHTS))
    return SasrecChannel.from_state(state, settings, device=settings.train.device)


def _sampled(cases: Cases) -> Cases:
    """At most so many cases, by a fixed seed, in their old order."""
    return cases.subset(np.sort(np.random.default_rng(0).permutation(len(cases))[:_CASES]))


def _contiguous(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in state.items()}
