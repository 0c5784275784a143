"""Rankers judged by the harness that judges channels: fusion alone, and what each ranker makes of the same lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.artifacts import open_artifact
from genrecall.catalog.split import Cases
from genrecall.errors import ConfigError
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.harness import evaluate
from genrecall.eval.lock import Final
from genrecall.rank.columns import Ragged
from genrecall.rank.fit import FitConfig, held_out
from genrecall.rank.lists import ListReader
from genrecall.rank.metrics import auc, grouped_auc, log_loss
from genrecall.rank.sampling import shaped
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Candidates, Query
from genrecall.recipes.rank_lists import ListMaker, Shop, sampled
from genrecall.recipes.ranking import KIND

FUSION_ONLY = "fusion"
_SCORED, _K = 128, 50


class _Recalling:
    """Fusion alone: answers as the lists are made."""

    name = FUSION_ONLY

    def __init__(self, maker: ListMaker) -> None:
        self._maker = maker

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The fused lists."""
        found = self._maker.add(queries)
        if self._maker.complete:
            self._maker.close()
        return Candidates(items=found.items[:, :k], scores=found.scores[:, :k])


class _Ranking:
    """A ranker that answers in order what was asked before, once the lists are complete; it scores them once."""

    def __init__(self, name: str, ranker: Ranker, lists: Path) -> None:
        self.name, self._ranker, self._lists, self._asked = name, ranker, lists, 0

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The next lists."""
        begin, self._asked = self._asked, self._asked + len(queries)
        scored, offsets = self._scored, self._scored.offsets
        own = self._order[offsets[begin] : offsets[self._asked]]
        row = scored.candidates.owner[own]
        column = np.arange(offsets[begin], offsets[self._asked]) - offsets[row]
        kept = column < k
        place = (row[kept] - begin, column[kept])
        items, scores = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), -np.inf, np.float32)
        items[place], scores[place] = scored.candidates.values[own[kept]], scored.logits[own[kept]]
        return Candidates(items=items, scores=scores)

    def pointwise(self) -> dict[str, float]:
        """AUC, GAUC and LogLoss."""
        x, p, y = self._scored.logits, self._scored.probabilities, self._scored.labels
        return {"auc": auc(x, y), "gauc": grouped_auc(x, y, self._scored.offsets), "logloss": log_loss(p, y)}

    @cached_property
    def _order(self) -> np.ndarray:
        """int64 (P,): every list's candidates, best first."""
        return np.lexsort((-self._scored.logits, self._scored.candidates.owner))

    @cached_property
    def _scored(self) -> _Scored:
        reader, ranker = ListReader(self._lists), self._ranker
        found, labels, candidates = [], [], []
        for lists in reader.batches(_SCORED):
            found.append(ranker.score(shaped(lists, reader, ranker.schema).asked))
            labels.append(lists.labels)
            candidates.append(lists.asked.candidates)
        return _Scored(
            logits=np.concatenate([one.logits for one in found]),
            probabilities=np.concatenate([one.probabilities for one in found]),
            labels=np.concatenate(labels),
            candidates=Ragged.chain(candidates),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """What a ranker made of lists: logits, probabilities and labels (P,), and the lists."""

    logits: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    candidates: Ragged

    @property
    def offsets(self) -> np.ndarray:
        """int64 (R+1,)."""
        return self.candidates.offsets


def judge_rankers(
    shop: Shop,
    rankers: Mapping[str, Ranker],
    cases: Cases,
    lists: Path,
    *,
    k: int,
    final: Final | None = None,
    remarks: tuple[str, ...] = (),
) -> tuple[Evaluation, dict[str, dict[str, float]]]:
    """Metrics of every ranker and of the fusion on the same lists; AUC, GAUC and LogLoss of the rankers beside.

    Args:
        shop: who recalls.
        rankers: by name.
        cases: that are asked.
        lists: file that gets the lists.
        k: candidates of a list.
        final: leave to read the test part.
        remarks: whatever else a reader must know.
    """
    lists.parent.mkdir(parents=True, exist_ok=True)
    orders = [_Ranking(name, ranker, lists) for name, ranker in rankers.items()]
    told = (f"rankers order the first {k} candidates of the fusion; a target that is not among them is a miss",)
    evaluation = evaluate(
        [_Recalling(ListMaker(shop, cases, lists, k=k)), *orders],
        cases,
        num_items=len(shop.catalog.items),
        protocol=shop.config.protocol(shop.split, remarks=(*told, *remarks)),
        train_counts=shop.split.train.item_counts(len(shop.catalog.items)),
        final=None if final is None else replace(final, bundle=shop.bundle.digest, catalog=shop.catalog.digest),
        k=min(_K, k),
        profile=shop.catalog.profile_of,
        groups=shop.bundle.table.sids[:, 0],
    )
    return evaluation, {order.name: order.pointwise() for order in orders}


def held_out_cases(shop: Shop, cases: int, fit: FitConfig) -> Cases:
    """Validation cases of the users that a ranker's fit held out."""
    asked = sampled(shop.split.valid, cases)
    return asked.subset(np.flatnonzero(held_out(asked.users.astype(np.int64), fit)))


def opened(path: Path, shop: Shop, device: str) -> tuple[Ranker, dict[str, Any]]:
    """A ranker of this bundle, and its recipe."""
    artifact = open_artifact(path, kind=KIND)
    of = {name: artifact.manifest.parents.get(name) for name in shop.parents}
    if of != dict(shop.parents):
        raise ConfigError(
            f"{path} was trained on another bundle",
            seen=", ".join(f"{name} {digest}" for name, digest in of.items()),
            allowed=", ".join(f"{name} {digest}" for name, digest in shop.parents.items()),
            fix="run `genrecall rank train` on this bundle",
        )
    return Ranker.load(artifact.path, device=device, digest=artifact.digest), artifact.manifest.config["recipe"]
