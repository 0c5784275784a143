"""Training an item trunk, and the ``model`` artifact that comes out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genrecall import artifacts, hardware
from genrecall.catalog.histories import Histories
from genrecall.index.trie import Trie
from genrecall.model.trunk import ItemTrunk, TrunkConfig
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.sid.table import SidTable
from genrecall.train.attention import float32_attention
from genrecall.train.norm import cheap_norms
from genrecall.train.result import KIND, METRICS
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.fit import fit
from genrecall.train.sequence.result import FitResult
from genrecall.train.sequence.soft import SoftTargets
from genrecall.train.trunk import TrunkLearner
from genrecall.train.trunk_data import sequence_data
from genrecall.train.turns import TurnRows


def trunk_manifest(
    model: TrunkConfig, train: SequenceConfig, *, normalise: str, sessions: bool, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest's configuration, for ``artifacts.is_current`` before anything is trained."""
    return {
        "shape": "trunk",
        "model": asdict(model),
        "train": train.identity(),
        "normalise": normalise,
        "sessions": sessions,
        "recipe": dict(recipe),
    }


def train_trunk(
    table: SidTable,
    histories: Histories,
    *,
    out: Path,
    model: TrunkConfig,
    train: SequenceConfig,
    prompt: ItemPrompt,
    profile_of: Callable[[int], Mapping[str, str]],
    normalise: str = "trie",
    soft: SoftTargets | None = None,
    turns: TurnRows | None = None,
    validate: Callable[[ItemTrunk], float] | None = None,
    parents: Mapping[str, str],
    recipe: Mapping[str, Any],
    start: Path | None = None,
) -> FitResult:
    """Train on U users' histories and write the artifact; a killed run goes on from its checkpoint.

    Args:
        table: the SIDs that are learnt.
        histories: training events only.
        out: directory of the artifact; the run works beside it, in ``<out>.work``.
        model, train: sizes and settings; ``train.window`` is the model's.
        prompt: the same that serves.
        profile_of: profile columns by row of ``histories``.
        normalise: "trie" or "level".
        soft: a teacher's targets, row by row the events of ``histories``.
        turns: rows to mix in: searches, of a ``prompt`` that reads them, or imagined histories.
        validate: a figure to maximise, of the model in evaluation mode.
        parents: digests of catalog, SIDs and teacher.
        recipe: whatever else made the model; goes into the manifest.
        start: directory of a model whose weights are gone on from; of the same sizes and prompt.
    """
    assert train.window == model.window == prompt.window, "one window for training and serving"
    trie = Trie.build(table.space, table.sids)
    if start is not None:
        trunk = ItemTrunk.load(start, table.sids)
    else:
        trunk = ItemTrunk(
            model, table.space, table.sids, prefix_rows=prompt.prefix_rows, prefix_length=len(prompt.head()),
            sessions=prompt.sessions,
        )  # fmt: skip
    learner = TrunkLearner(trunk, trie, table.sids, normalise=normalise, searches=prompt.queries is not None)
    if turns is not None and turns.word_vectors is not None:
        trunk.ground(prompt.first_query_row - trunk.first_prefix, turns.word_vectors)
    data = sequence_data(histories, prompt, profile_of, soft=soft, turns=turns)
    manifest = trunk_manifest(model, train, normalise=normalise, sessions=prompt.sessions, recipe=recipe)
    work = out.with_name(out.name + ".work")
    device = hardware.pick_device(train.device)
    with ExitStack() as patched:
        for decoder in (trunk.trunk, trunk.depth):
            on_cpu = device.type == "cpu"
            patched.enter_context(float32_attention(decoder, active=on_cpu and hardware.has_bf16(device)))
            patched.enter_context(cheap_norms(decoder, active=True))
        result = fit(
            learner,
            data,
            train,
            validate=None if validate is None else lambda learning: validate(learning.model),
            work=work,
            identity={"run": manifest, "parents": dict(parents)},
            label=out.name,
        )
    with artifacts.write_artifact(out, kind=KIND, config=manifest, parents=parents) as writer:
        trunk.save(writer.path)
        prompt.save(writer.path)
        _keep_figures(work / METRICS, writer.path / METRICS)
        writer.facts |= {**_facts(result), "machine": hardware.describe()}
    shutil.rmtree(work, ignore_errors=True)
    return result


def _facts(result: FitResult) -> dict[str, Any]:
    facts = asdict(result)
    facts.pop("validations")
    return facts


def _keep_figures(source: Path, target: Path) -> None:
    """Equal runs write equal files, so times stay out."""
    lines = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    kept = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    target.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
