"""Learning to rank one request's candidates, from lists on disk.

    loss = −Σ_j y_j ln softmax_j(logit) / Σ_j y_j  +  λ · BCE(logit, y)      over the candidates of each request

ListNet's top-one loss (Cao et al., ICML 2007) beside the click-through loss of one candidate. Negatives are the same
request's other candidates: the nearest by recall's order, and as many drawn from the rest. Deviations: a warm-up on
training events (which generator and counts remember, so evidence, numbers and state are left out) teaches the tables;
then weights are fitted that say how far it and all numbers are to be believed (``begin``), and the network learns what
these lack. Epochs, none among them, are chosen by the listwise loss of held-out units, which has less noise than
NDCG@10; then logits are calibrated on these (Platt, 1999).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from genrecall.errors import ConfigError, DataError
from genrecall.hardware import pick_device
from genrecall.rank.begin import conditional_logit
from genrecall.rank.embedding import Tables
from genrecall.rank.features import Features
from genrecall.rank.hashing import mix
from genrecall.rank.inputs import Inputs, ItemSide, inputs_of
from genrecall.rank.lists import ListReader, Lists
from genrecall.rank.loss import listwise, platt
from genrecall.rank.metrics import auc, grouped_auc, log_loss, ndcg, places
from genrecall.rank.model import NetworkConfig, RankNetwork
from genrecall.rank.sampling import shaped, taken, thinned
from genrecall.rank.score import Ranker
from genrecall.telemetry import log, progress

_ASKED = 256
_CONSTANT, _BEGUN = 1e-6, 8192


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of the fit.

    Attributes:
        epochs: over the lists, at most.
        warm_epochs: over the warm-up lists, if there are any.
        requests: of a batch.
        negatives: candidates of a request that are learnt from, beside the taken ones.
        learning_rate, table_rate: of the network (AdamW) and of the tables (sparse Adam).
        warm_rate, warm_table_rate: of the same in the warm-up.
        weight_decay: of the network.
        dropout: of x_0.
        ctr: λ.
        patience: epochs without a smaller held-out loss before it ends.
        holdout: share of units that are held out.
        half: store tables as float16.
        seed: of everything random.
        device: where it is trained.
    """

    epochs: int = 12
    warm_epochs: int = 2
    requests: int = 64
    negatives: int = 100
    learning_rate: float = 3e-4
    table_rate: float = 1e-3
    warm_rate: float = 2e-3
    warm_table_rate: float = 5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    ctr: float = 0.2
    patience: int = 3
    holdout: float = 0.2
    half: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.holdout < 1 or min(self.requests, self.negatives, self.epochs) < 1 or self.ctr < 0:
            raise ConfigError(
                "a ranker cannot be fitted like this",
                seen=f"holdout={self.holdout}, requests={self.requests}, negatives={self.negatives}, "
                f"epochs={self.epochs}, ctr={self.ctr}",
                allowed="a held-out share between 0 and 1, counts of at least 1, a loss weight of at least 0",
                fix="correct FitConfig",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """What a fit reads.

    Attributes:
        features: of the catalog.
        vocabularies: of the features.
        vectors: float32 (I, D) or None.
        lists: requests whose targets the generator never learnt from.
        warm: lists of training events with drawn negatives; None leaves the warm-up out.
    """

    features: Features
    vocabularies: Mapping[str, np.ndarray]
    vectors: np.ndarray | None
    lists: ListReader
    warm: ListReader | None = None


def fit_ranker(data: Data, network: NetworkConfig, config: FitConfig) -> tuple[Ranker, dict[str, Any]]:
    """The ranker with the smallest held-out loss, and a report of how it got there.

    Raises:
        DataError: the lists hold nothing to learn from, or nothing to choose by.
    """
    start, on = time.perf_counter(), pick_device(config.device)
    schema = data.features.schema
    torch.manual_seed(config.seed)
    net = RankNetwork(schema, network, dropout=config.dropout).to(on)
    tables = Tables.fresh(schema, config.seed).to(on)
    _standardise(net, data, config)
    fit = _Fit(data, net, tables, config, on)
    warm = data.warm if schema.features and config.warm_epochs > 0 else None
    if warm is not None:
        for epoch in range(config.warm_epochs):
            loss = fit.epoch(warm, epoch, warm=True)
            log(f"ranker: warm-up {epoch + 1}/{config.warm_epochs}, loss {loss:.4f}")
    fit.begin(warm is not None)
    curve: list[dict[str, float]] = [{"epoch": 0, **fit.figures()}]
    least, kept, waited = curve[0]["listwise"], _copied(net, tables), 0
    log(f"ranker: begins at held-out loss {least:.4f}, NDCG@10 {curve[0]['ndcg@10']:.4f}")
    for epoch in range(config.epochs):
        loss = fit.epoch(data.lists, epoch, warm=False)
        found = fit.figures()
        curve.append({"epoch": epoch + 1, "loss": loss, **found})
        log(f"ranker: epoch {epoch + 1}, loss {loss:.4f}, held out {least:.4f} → {found['listwise']:.4f}")
        waited += 1
        if found["listwise"] < least:
            least, kept, waited = found["listwise"], _copied(net, tables), 0
        if waited >= config.patience:
            break
    net.load_state_dict(kept[0])
    tables.load_state_dict(kept[1])
    fit.calibrate()
    report = {"curve": curve, "held out": fit.figures(), "seconds": round(time.perf_counter() - start, 1)}
    return Ranker(data.features, data.vocabularies, data.vectors, net, tables), report


def held_out(units: np.ndarray, config: FitConfig) -> np.ndarray:
    """bool (n,): which of these units int64 (n,) are never learnt from; the same in every call."""
    drawn = mix(units.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(config.seed))
    return np.asarray(drawn / 2.0**64 < config.holdout)


class _Fit:
    """One fit: its parts, and what is done with them again and again."""

    def __init__(
        self, data: Data, network: RankNetwork, tables: Tables, config: FitConfig, device: torch.device
    ) -> None:
        self.data, self.network, self.tables, self.config, self.device = data, network, tables, config, device
        self._items = ItemSide.of(data.features, data.vectors, device)
        self._rate(config.warm_rate, config.warm_table_rate)

    def _rate(self, dense: float, sparse: float) -> None:
        """Fresh optimisers of these learning rates."""
        decay = self.config.weight_decay
        self.dense = torch.optim.AdamW(self.network.parameters(), lr=dense, weight_decay=decay)
        rows = [parameter for parameter in self.tables.parameters() if parameter.requires_grad]
        self.sparse = torch.optim.SparseAdam(rows, lr=sparse) if rows else None

    def epoch(self, reader: ListReader, epoch: int, *, warm: bool) -> float:
        """One pass; the mean loss."""
        config, total, count = self.config, 0.0, 0
        rng = np.random.default_rng((config.seed, epoch, int(warm)))
        self.network.train()
        with progress("ranker: warm-up" if warm else f"ranker: epoch {epoch + 1}", len(reader)) as bar:
            for lists in reader.batches(config.requests, seed=int(rng.integers(1 << 31))):
                bar.advance(len(lists))
                wanted = np.zeros(len(lists), bool) if warm else held_out(lists.units, config)
                lists, raised = thinned(lists, np.flatnonzero(~wanted), config.negatives, rng)
                if len(lists) == 0:
                    continue
                loss = self._step(shaped(lists, reader, self.network.schema), raised, warm=warm)
                total, count = total + loss * len(lists), count + len(lists)
        if count == 0:
            raise DataError(
                "there is nothing to learn to rank from",
                seen=f"{len(reader):,} requests in {reader.file}, none with a taken and another candidate",
                allowed="lists that hold what was taken",
                fix="recall longer lists, or give more validation cases",
            )
        return total / count

    def begin(self, warmed: bool) -> None:
        """Where the network begins to learn from the lists: see ``rank.begin``; of at most ``_BEGUN`` requests."""
        self._rate(self.config.learning_rate, self.config.table_rate)
        network, found, requests = self.network.eval(), [], 0
        told = network.schema.told
        if warmed:
            network.unlearn()
        elif not told:
            return
        for lists in self.data.lists.batches(_ASKED, seed=self.config.seed):
            rows = np.flatnonzero(~held_out(lists.units, self.config))
            if requests >= _BEGUN or len(rows) == 0:
                continue
            part = shaped(taken(lists, rows), self.data.lists, network.schema)
            found.append((self._sayings(part, warmed), part.labels, part.asked.candidates.owner + requests))
            requests += len(part)
        x, labels, owner = (np.concatenate(parts) for parts in zip(*found, strict=True))
        spread = x.std(0) + _CONSTANT
        weights = conditional_logit(x / spread, labels, owner) / spread
        network.begin(torch.from_numpy(weights[:told]), float(weights[told]) if warmed else 1.0)

    def _sayings(self, part: Lists, warmed: bool) -> np.ndarray:
        """float64 (P, F + N [+ 1]): evidence, numbers, and what a warmed network says."""
        network, inputs = self.network, self._inputs(part)
        with torch.inference_mode():
            said = [network.told(inputs.told)] if network.schema.told else []
            if warmed:
                said.append(network(inputs, self.tables)[:, None])
            return np.asarray(torch.cat(said, 1).double().cpu().numpy())

    def figures(self) -> dict[str, float]:
        """Of the held-out units; requests whose target was not recalled count as misses in NDCG and Recall."""
        logits, probabilities, labels, offsets = self._held()
        place = places(logits, offsets)
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        hit = np.zeros(len(offsets) - 1)
        np.maximum.at(hit, owner, (labels > 0) & (place <= 10))
        return {
            "listwise": self._listwise(logits, labels, owner),
            "ndcg@10": ndcg(place, labels, offsets),
            "recall@10": float(hit.mean()),
            "auc": auc(logits, labels),
            "gauc": grouped_auc(logits, labels, offsets),
            "logloss": log_loss(probabilities, labels),
            "requests": len(offsets) - 1,
        }

    @staticmethod
    def _listwise(logits: np.ndarray, labels: np.ndarray, owner: np.ndarray) -> float:
        """``listwise`` of the requests of which something was taken."""
        there = np.isin(owner, owner[labels > 0])
        _, own = np.unique(owner[there], return_inverse=True)
        scores, wanted = torch.from_numpy(logits[there]), torch.from_numpy(labels[there])
        return float(listwise(scores, wanted, torch.from_numpy(own), int(own[-1]) + 1)) if len(own) else 0.0

    def calibrate(self) -> None:
        """Slope and shift of the held-out logits, by Newton's method."""
        logits, _, labels, _ = self._held()
        with torch.no_grad():
            self.network.get_buffer("calibration").copy_(torch.from_numpy(platt(logits, labels)))

    def _step(self, lists: Lists, raised: np.ndarray, *, warm: bool) -> float:
        inputs = self._inputs(lists, warm=warm)
        logits = self.network(inputs, self.tables) + torch.from_numpy(raised).to(self.device)
        labels = torch.from_numpy(lists.labels).to(self.device)
        loss = listwise(logits, labels, inputs.owner, len(lists))
        if self.config.ctr:
            loss = loss + self.config.ctr * F.binary_cross_entropy_with_logits(logits, labels)
        optimizers = [self.dense, *([self.sparse] if self.sparse is not None else [])]
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return float(loss.detach())

    def _inputs(self, lists: Lists, *, warm: bool = False) -> Inputs:
        """What the network is told; of training events no numbers, since they are among what was counted."""
        return inputs_of(self.data.features, lists.asked, self._items, self.device, counted=not warm)

    def _held(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Logits, probabilities, labels (P,) and offsets of the held-out requests."""
        self.network.eval()
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        for lists in self._held_lists():
            with torch.inference_mode():
                logits = self.network(self._inputs(lists), self.tables)
                p = self.network.probability(logits)
            found.append((logits.cpu().numpy(), p.cpu().numpy(), lists.labels, lists.asked.candidates.lengths))
        if not found:
            raise DataError(
                "no request is held out to choose a ranker by",
                seen=f"{len(self.data.lists):,} requests, holdout={self.config.holdout}",
                allowed="some tens of units at least",
                fix="give more validation cases, or a larger share",
            )
        scores, chances, labels, lengths = (np.concatenate(part) for part in zip(*found, strict=True))
        return scores, chances, labels, np.concatenate([[0], np.cumsum(lengths)])

    def _held_lists(self) -> Iterator[Lists]:
        reader = self.data.lists
        for lists in reader.batches(_ASKED):
            rows = np.flatnonzero(held_out(lists.units, self.config))
            if len(rows):
                yield shaped(taken(lists, rows), reader, self.network.schema)


def _standardise(network: RankNetwork, data: Data, config: FitConfig) -> None:
    """Mean and spread of evidence, numbers and states over the lists that are learnt from."""
    schema, sums = network.schema, {"told": _Sums(), "state": _Sums()}
    for lists in data.lists.batches(_ASKED):
        rows = np.flatnonzero(~held_out(lists.units, config))
        told = shaped(taken(lists, rows), data.lists, schema).asked
        sums["told"].add(data.features.told(told))
        if told.state is not None:
            sums["state"].add(told.state)
    for name, there in (("told", bool(schema.told)), ("state", bool(schema.state))):
        if there:
            module = network.get_submodule(name)
            mean, spread = sums[name].moments()
            with torch.no_grad():
                module.get_buffer("mean").copy_(torch.from_numpy(mean))
                module.get_buffer("spread").copy_(torch.from_numpy(spread))


class _Sums:
    """Running mean and spread by column, NaN left out."""

    def __init__(self) -> None:
        self.count = self.total = self.square = np.zeros(1)

    def add(self, values: np.ndarray) -> None:
        known = values.astype(np.float64)
        self.count = self.count + np.isfinite(known).sum(0)
        self.total = self.total + np.nansum(known, 0)
        self.square = self.square + np.nansum(known**2, 0)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        count = np.maximum(self.count, 1)
        mean = self.total / count
        spread = np.sqrt(np.maximum(self.square / count - mean**2, 0))
        return mean.astype(np.float32), np.where(spread < _CONSTANT, 1.0, spread).astype(np.float32)


def _copied(network: RankNetwork, tables: Tables) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    copies = [{name: tensor.clone() for name, tensor in part.state_dict().items()} for part in (network, tables)]
    return copies[0], copies[1]
