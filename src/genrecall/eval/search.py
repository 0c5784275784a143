"""Search: queries in words, several relevant items each.

    Recall@k = |L_k ∩ R| / |R|    capped Recall@k = |L_k ∩ R| / min(k, |R|)
    NDCG@k = Σ_{i ≤ k, l_i ∈ R} 1/log₂(i + 1) / Σ_{i ≤ min(k, |R|)} 1/log₂(i + 1)    fill@k = [|L ∩ R| ≥ k]

L_k are the first k items of the list L, R the relevant items; NDCG after Järvelin & Kekäläinen (ACM TOIS 2002) with
gains of 0 and 1, capped recall as in BEIR (Thakur et al., NeurIPS 2021). fill@k is the fill rate of ad and search
systems: the share of queries for which k eligible, relevant results were found at all. Deviation: fill looks at the
whole list and not at its first k, and queries that have fewer than k relevant items count as not filled, so that every
table says how many those are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genrecall.catalog.queries import SearchCases
from genrecall.errors import ConfigError
from genrecall.eval.asking import answers
from genrecall.eval.evaluation import Evaluation, summarise
from genrecall.eval.harness import require_task
from genrecall.eval.lists import ListFigures
from genrecall.eval.lock import Final, unlock
from genrecall.eval.metrics import headline_cut
from genrecall.eval.significance import RESAMPLES
from genrecall.eval.slices import POPULARITY_BINS, occupied, popularity_bins
from genrecall.recall.channel import Channel, Query

FAMILIES = ("recall", "capped", "ndcg", "fill")
TIERS = ("head", "torso", "tail", "unseen")
FREQUENCY, ANSWERS = "query frequency", "relevant items"


@dataclass(frozen=True, kw_only=True)
class SearchProtocol:
    """The rules of one search evaluation; printed with every table.

    Attributes:
        ks: cut-offs of the metrics.
        depth: length of the lists.
        frequency: what a query's frequency counts, in words; empty where none is known.
        fillable: share of the queries that have as many relevant items as each cut-off asks for.
        left_out: what of the queries could not be used, counted.
        remarks: anything else that changes the figures.
    """

    ks: tuple[int, ...] = (10, 50)
    depth: int = 50
    frequency: str = ""
    fillable: tuple[float, ...] = ()
    left_out: Mapping[str, int]
    remarks: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What is counted."""
        return "queries"

    def metric_names(self) -> list[str]:
        """``recall@10``, …, ``fill@50``: the columns of :func:`search_gains`."""
        return [f"{family}@{k}" for family in FAMILIES for k in self.ks]

    def brief(self) -> str:
        """The rule that moves figures most."""
        return f"search by the query's text alone, lists of {self.depth}"

    def sentence(self) -> str:
        """All rules in one sentence."""
        rules = [f"{self.brief()}; every item of the catalog is ranked; a hit is a relevant item"]
        rules += [
            f"{share:.0%} of the queries have {k} relevant items and can be filled at {k}"
            for k, share in zip(self.ks, self.fillable, strict=True)
        ]
        if self.frequency:
            rules.append(f"a query's frequency counts {self.frequency}")
        rules += [f"{count:,} {what} left out" for what, count in self.left_out.items()]
        return "; ".join([*rules, *self.remarks]) + "."

    def to_dict(self) -> dict[str, Any]:
        """The rules for a JSON report."""
        return {"kind": "search", **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchProtocol:
        """Inverse of ``to_dict``."""
        return cls(
            depth=data["depth"],
            frequency=data["frequency"],
            left_out=data["left_out"],
            **{name: tuple(data[name]) for name in ("ks", "fillable", "remarks")},
        )


def search_gains(hits: np.ndarray, relevant: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """float32 (Q, 4·len(ks)) what each query adds to each metric.

    Args:
        hits: bool (Q, depth) whether the item at each place is relevant.
        relevant: int (Q,) relevant items of each query, > 0.
        ks: cut-offs, none above the depth.
    """
    found = hits.cumsum(1)
    discount = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    gained, ideal = (hits * discount).cumsum(1), np.append(0.0, discount.cumsum())
    columns = [found[:, k - 1] / relevant for k in ks]
    columns += [found[:, k - 1] / np.minimum(relevant, k) for k in ks]
    columns += [gained[:, k - 1] / ideal[np.minimum(relevant, k)] for k in ks]
    columns += [found[:, -1] >= k for k in ks]
    return np.stack(columns, axis=1).astype(np.float32)


def evaluate_search(
    channels: Sequence[Channel],
    cases: SearchCases,
    *,
    num_items: int,
    train_counts: np.ndarray,
    frequencies: np.ndarray | None = None,
    frequency: str = "",
    final: Final | None = None,
    ks: tuple[int, ...] = (10, 50),
    k: int = 50,
    batch: int = 256,
    vectors: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    remarks: tuple[str, ...] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Rank the catalog for every query's text with every channel.

    Args:
        channels: distinct names; they read ``Query.text``.
        cases: Q ≥ 1 queries with their relevant items; test queries are refused without ``final``.
        num_items: I.
        train_counts: int (I,) training events by item, for novelty.
        frequencies: int (Q,) how often each query is asked: head are the most frequent 20% of those that are asked at
            all, torso the next 30%, tail the rest, unseen those with none. None: no tiers.
        frequency: what ``frequencies`` count, in words.
        final: leave to read the test part; the reading is recorded before the first query is asked.
        ks: cut-offs, ascending.
        k: length of the lists, at least the largest cut-off; fill looks at the whole list.
        batch: queries a call.
        vectors: float (I, D) item vectors, for the diversity of lists.
        groups: int (I,) a category or SID prefix ≥ 0 by item, where there are no vectors.
        remarks: anything else that changes the figures.
        resamples: of the bootstrap over queries.
        seed: of the bootstrap.
    """
    if not ks or min(ks) < 1 or list(ks) != sorted(set(ks)):
        raise ConfigError(
            "the cut-offs of the metrics are not usable",
            seen=ks,
            allowed="distinct positive numbers in ascending order",
            fix="for example ks=(10, 50)",
        )
    require_task([channel.name for channel in channels], len(cases), k, ks)
    protocol = SearchProtocol(
        ks=ks,
        depth=k,
        frequency=frequency,
        fillable=tuple(float((cases.lengths >= cut).mean()) for cut in ks),
        left_out=cases.left_out,
        remarks=remarks,
    )
    readings = unlock(cases.part, final, split="search queries", cases=len(cases), protocol=protocol.sentence())
    users, masks = np.arange(len(cases), dtype=np.int32), _slices(cases, frequencies)
    results = {}
    for channel in channels:
        found, lists, seconds = _ask(channel, cases, protocol, train_counts, batch, vectors, groups)
        results[channel.name] = summarise(
            channel.name,
            found[None],
            metrics=protocol.metric_names(),
            users=users,
            masks=masks,
            lists=lists,
            seconds=seconds,
            resamples=resamples,
            seed=seed,
        )
    return Evaluation(
        protocol=protocol,
        part=cases.part,
        num_items=num_items,
        users=users,
        cases=_digest(cases),
        unreachable=0,
        masks=masks,
        results=results,
        resamples=resamples,
        seed=seed,
        readings=readings,
    )


def _ask(
    channel: Channel,
    cases: SearchCases,
    protocol: SearchProtocol,
    train_counts: np.ndarray,
    batch: int,
    vectors: np.ndarray | None,
    groups: np.ndarray | None,
) -> tuple[np.ndarray, dict[str, float], float]:
    """Gains float32 (Q, M), list figures and seconds of one channel."""
    num_items = len(train_counts)
    relevant = np.repeat(np.arange(len(cases)), cases.lengths) * num_items + cases.items
    hits = np.zeros((len(cases), protocol.depth), bool)
    lists = ListFigures(protocol.ks, headline_cut(protocol.ks), train_counts, vectors, groups)
    seconds = 0.0

    def ask(begin: int, end: int) -> list[Query]:
        return [Query(text=text) for text in cases.texts[begin:end]]

    for begin, answer, took in answers(channel, ask, len(cases), num_items=num_items, k=protocol.depth, batch=batch):
        rows = np.arange(begin, begin + len(answer.items), dtype=np.int64)[:, None]
        keys = np.where(answer.items >= 0, rows * num_items + answer.items, -1)
        hits[begin : begin + len(keys)] = np.isin(keys, relevant)
        lists.add(answer.items)
        seconds += took
    return search_gains(hits, cases.lengths, protocol.ks), lists.figures(), seconds


def _slices(cases: SearchCases, frequencies: np.ndarray | None) -> dict[str, dict[str, np.ndarray]]:
    size = cases.lengths
    groups = {ANSWERS: {"1-9": size < 10, "10-49": (size >= 10) & (size < 50), "50+": size >= 50}}
    if frequencies is not None:
        assert len(frequencies) == len(cases), "one frequency a query"
        tier = popularity_bins(frequencies)
        groups[FREQUENCY] = {name: tier == place for place, name in enumerate(TIERS)}
    assert len(TIERS) == len(POPULARITY_BINS)
    return occupied(groups)


def _digest(cases: SearchCases) -> str:
    total = hashlib.sha256("\n".join([*cases.query_ids, *cases.texts]).encode())
    for array in (cases.offsets, cases.items):
        total.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return f"sha256:{total.hexdigest()}"
