"""The preference stage of a generator: its own beams as negatives, kept only where validation says so.

model ──▶ beams of training events ──▶ train.preference ──▶ better on cases that stopped nothing? ──▶ new ``model``
                                                             └─ no ──▶ new ``model`` with the old weights, which says so
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from genrecall import hardware
from genrecall.artifacts import is_current, open_artifact, write_artifact
from genrecall.catalog.histories import Histories
from genrecall.catalog.split import Cases, Split
from genrecall.catalog.store import Catalog
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.errors import DataError
from genrecall.eval.harness import queries_of
from genrecall.eval.significance import Interval, paired
from genrecall.eval.slices import POPULARITY_BINS, popularity_bins
from genrecall.index.trie import Trie
from genrecall.model.trunk import ItemTrunk
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.recall.channel import Query
from genrecall.recall.generative import GenerativeChannel, GenerativeConfig
from genrecall.recipes.study import Study
from genrecall.sid.table import SidTable
from genrecall.telemetry import log, progress
from genrecall.train.preference import PreferenceConfig, Rejected
from genrecall.train.preference_fit import PreferenceResult, prefer
from genrecall.train.result import KIND, METRICS

_FIGURES = "preference.jsonl"
_BATCH, _DEPTH = 2048, 50


def preferred(
    catalog: Catalog,
    split: Split,
    study: Study,
    sid: Path,
    model: Path,
    out: Path,
    config: PreferenceConfig | None = None,
) -> Path:
    """Write a ``model`` artifact whose parent is ``model``; it has the old weights where the new ones are no better.

    Cases of half of the validation users stop the training, those of the others decide, so that a lucky stop is not
    taken for a better model. ``facts["preference"]`` holds the figures before and after training, whichever weights are
    kept, and their paired difference with its 95% interval over users.

    Args:
        catalog, split, study: those of the model.
        sid: its SIDs.
        model: a trained trunk.
        out: directory of the artifact.
        config: settings; None: the defaults.

    Raises:
        DataError: there are no validation cases.
    """
    source = open_artifact(model, kind=KIND)
    table = SidTable.load(sid)
    trunk, prompt = ItemTrunk.load(source.path, table.sids), ItemPrompt.load(source.path, len(table.sids))
    train = (config or PreferenceConfig()).train
    train = replace(train, window=trunk.config.window, device=study.train.device, seed=study.seed)
    config = replace(config or PreferenceConfig(), train=train)
    told = {**asdict(config), "train": train.identity()}
    manifest = {**source.manifest.config, "preference": told}
    parents = {**source.manifest.parents, "model": source.digest}
    if is_current(out, kind=KIND, config=manifest, parents=parents):
        return out
    asked = len(np.unique(split.valid.users))
    if asked < 2:
        raise DataError(
            "nothing can say whether preferences help",
            seen=f"validation cases of {asked} users",
            allowed="at least 2: one to stop by, one to decide by",
            fix="leave the preference stage out where a model is refitted on its validation cases",
        )
    generator = _Generator(catalog, split, study, table, prompt)
    stopping, deciding = halves(split.valid, study.validation_cases)
    work = out.with_name(out.name + ".work")
    lists = generator.lists(trunk, deciding)
    figures = {"before": generator.figures(lists, deciding)}
    result = prefer(
        trunk,
        generator.trie,
        table.sids,
        split.train,
        config,
        prompt=prompt,
        profile_of=catalog.profile_of,
        normalise=study.normalise,
        propose=lambda current: generator.rejected(current, config),
        validate=generator.measure(stopping),
        work=work,
        identity={"model": source.digest},
    )
    learnt = generator.lists(trunk if result.improved else result.tried, deciding)
    figures["after"] = generator.figures(learnt, deciding)
    change = _changes(lists, learnt, deciding)
    kept = result.improved and change["ndcg@10"].mean > 0
    log(_sentence(kept, result, figures, change["ndcg@10"]))
    with write_artifact(out, kind=KIND, config=manifest, parents=parents) as writer:
        for file in source.manifest.files:
            shutil.copyfile(source.path / file, writer.path / file)
        if kept:
            trunk.save(writer.path)
        _keep_figures([work / f"round-{number}" for number in range(len(result.rounds))], writer.path / _FIGURES)
        facts = {
            "kept": "new" if kept else "old",
            "stopping": [result.before, result.after],
            **figures,
            "change": {name: asdict(interval) for name, interval in change.items()},
            "rounds": [asdict(one) for one in result.rounds],
        }
        writer.facts |= {**source.manifest.facts, "preference": facts, "machine": hardware.describe()}
    shutil.rmtree(work, ignore_errors=True)
    return out


class _Generator:
    """What is asked of a trunk that is being trained."""

    def __init__(self, catalog: Catalog, split: Split, study: Study, table: SidTable, prompt: ItemPrompt) -> None:
        self.catalog, self.split, self.study, self.table, self.prompt = catalog, split, study, table, prompt
        self.trie = Trie.build(table.space, table.sids)
        self.counts = split.train.item_counts(len(catalog.items))
        self.head = popularity_bins(self.counts) == POPULARITY_BINS.index("head")

    def channel(self, model: ItemTrunk, search: GenerativeConfig) -> GenerativeChannel:
        normalise: Any = self.study.normalise  # checked by EngineConfig
        settings = EngineConfig(normalise=normalise, device=self.study.train.device)
        engine = Engine(model, self.trie, self.prompt.sid_tokens, settings)
        return GenerativeChannel(engine, self.prompt, self.table, self.counts, search)

    def queries(self, cases: Cases) -> list[Query]:
        return queries_of(cases, self.study.split.protocol(self.split), self.catalog.profile_of)

    def measure(self, cases: Cases) -> Callable[[ItemTrunk], float]:
        """NDCG@10."""
        queries, search = self.queries(cases), GenerativeConfig(beam=self.study.validation_beam)

        def ndcg(model: ItemTrunk) -> float:
            found = self.channel(model, search).recall(queries, 10).items
            return float(_gains(found, cases)["ndcg@10"].mean())

        return ndcg

    def lists(self, model: ItemTrunk, cases: Cases) -> np.ndarray:
        """Items int (N, 50), as they would be served."""
        queries, channel = self.queries(cases), self.channel(model, self.study.generative)
        found = []
        with progress("deciding", len(queries)) as bar:
            for begin in range(0, len(queries), _BATCH):
                found.append(channel.recall(queries[begin : begin + _BATCH], _DEPTH).items)
                bar.advance(len(found[-1]))
        return np.concatenate(found)

    def figures(self, lists: np.ndarray, cases: Cases) -> dict[str, float]:
        """Quality of the lists, and how popular what stands in them is; "head" is the most popular fifth."""
        shown = lists[:, :10][lists[:, :10] >= 0]
        return {
            "cases": float(len(cases)),
            **{name: float(gain.mean()) for name, gain in _gains(lists, cases).items()},
            "log_popularity@10": float(np.log1p(self.counts[shown]).mean()),
            "head@10": float(self.head[shown].mean()),
            "coverage@10": len(np.unique(shown)) / len(self.counts),
        }

    def rejected(self, model: ItemTrunk, config: PreferenceConfig) -> Rejected:
        """The best beams of the last training events that the user did not choose then or soon after."""
        train = self.split.train
        channel = self.channel(model, GenerativeConfig(beam=config.beam, items_per_sid=1))
        place, rows = np.arange(len(train.items)), train.rows
        begins, ends = train.offsets[rows], train.offsets[rows + 1]
        asked = np.flatnonzero((place > begins) & (place >= ends - config.last))
        items = np.zeros((len(place), config.negatives), dtype=np.int32)
        weights = np.zeros(items.shape, dtype=np.float16)
        with progress("candidates", len(asked)) as bar:
            for begin in range(0, len(asked), _BATCH):
                events = asked[begin : begin + _BATCH]
                queries = [self._query(train, event, int(begins[event])) for event in events.tolist()]
                found = channel.recall(queries, config.beam).items
                ahead = np.minimum(events[:, None] + np.arange(config.future), ends[events, None] - 1)
                items[events], weights[events] = negatives(found, train.items[ahead], self.table.sids, config)
                bar.advance(len(events))
        return Rejected(items=items, weights=weights)

    def _query(self, train: Histories, event: int, begin: int) -> Query:
        past = train.items[begin:event]
        removed = self.study.split.history == "removed"
        return Query(
            history=past,
            times=train.times[begin:event] if train.timed else None,
            exclude=np.unique(past) if removed else np.empty(0, np.int32),
            profile=self.catalog.profile_of(int(np.searchsorted(train.offsets, event, side="right")) - 1),
        )


def negatives(
    found: np.ndarray, chosen: np.ndarray, sids: np.ndarray, config: PreferenceConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Items int32 (n, K) and weights float16 (n, K), best beams first.

    Args:
        found: int (n, W) items of the beams, best first; -1 where there is none.
        chosen: int (n, F) what the user chose, the positive first.
        sids: int (I, L); items that share a SID with a chosen one are not rejected.
        config: settings.
    """
    same = (sids[found.clip(min=0)][:, :, None] == sids[chosen][:, None]).all(-1)
    positive, kept = same[:, :, 0], (found >= 0) & ~same.any(-1)
    width = found.shape[1]
    rank = np.where(positive.any(1), positive.argmax(1), width)
    gain = 1 / np.log2(np.arange(width + 1) + 2)
    cost = np.abs(gain[rank][:, None] - gain[:width]) if config.rank_aware else np.ones(found.shape)
    cost = np.where(kept, cost, 0.0)
    cost *= kept.sum(1, keepdims=True) / np.maximum(cost.sum(1, keepdims=True), 1e-9)
    order = np.argsort(~kept, axis=1, kind="stable")[:, : config.negatives]
    items, weights = (np.take_along_axis(x, order, 1) for x in (found.clip(min=0), cost))
    spare = ((0, 0), (0, config.negatives - order.shape[1]))
    return np.pad(items, spare).astype(np.int32), np.pad(weights, spare).astype(np.float16)


def halves(cases: Cases, count: int) -> tuple[Cases, Cases]:
    """Two draws of at most ``count`` cases, no user in both: one user's cases share their luck."""
    rng = np.random.default_rng(0)
    users = rng.permutation(np.unique(cases.users))
    first = np.isin(cases.users, users[: len(users) // 2])
    stopping, deciding = (rng.permutation(np.flatnonzero(half))[:count] for half in (first, ~first))
    return cases.subset(np.sort(stopping)), cases.subset(np.sort(deciding))


def _gains(lists: np.ndarray, cases: Cases) -> dict[str, np.ndarray]:
    """What each case adds, float (N,) by metric; lists shorter than a cut-off leave its metric out."""
    hit = lists == cases.targets[:, None]
    recall = {f"recall@{k}": hit[:, :k].sum(1) for k in (10, _DEPTH) if k <= hit.shape[1]}
    return {"ndcg@10": (hit[:, :10] / np.log2(np.arange(10) + 2)).sum(1), **recall}


def _changes(old: np.ndarray, new: np.ndarray, cases: Cases) -> dict[str, Interval]:
    """New lists against old ones, case by case."""
    before, after = _gains(old, cases), _gains(new, cases)
    return {name: paired(after[name], before[name], cases.users).interval for name in before}


def _sentence(kept: bool, result: PreferenceResult, figures: dict[str, dict[str, float]], change: Interval) -> str:
    told = f"NDCG@10 {figures['before']['ndcg@10']:.4f} → {figures['after']['ndcg@10']:.4f}"
    told += f" (difference {change.low:+.4f} to {change.high:+.4f}) on cases that stopped nothing"
    if not result.improved:
        told = f"NDCG@10 never rose above {result.before:.4f} while training; {told}"
    if not kept:
        return f"preferences do not help: {told}; the old weights are kept"
    sure = "help" if change.low > 0 else "may help"
    return f"preferences {sure}: {told}; the new weights are kept"


def _keep_figures(rounds: list[Path], target: Path) -> None:
    """Equal runs write equal files, so times stay out."""
    lines = [
        {"round": number, **json.loads(line)}
        for number, directory in enumerate(rounds)
        for line in (directory / METRICS).read_text(encoding="utf-8").splitlines()
    ]
    kept = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    target.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
