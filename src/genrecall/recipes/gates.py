"""Whether a new bundle may replace the one in use: the same users are asked of both, as the service would answer them.

validation  recall@k of the later items, candidate against active, paired over users
fill        share of the places that came without fallback, of all users and of those with the shortest histories
drift       overlap@k of the lists; Jensen-Shannon divergence of what they show, by first code; SIDs of known items

JS(P, Q) = H((P + Q) / 2) - (H(P) + H(Q)) / 2   in bits, 0 to 1; Lin, IEEE Trans. IT 1991
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.bundle.diff import compare
from genrecall.bundle.load import Recommender
from genrecall.bundle.overlap import Behaviour, of_lists
from genrecall.catalog.split import Cases
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.eval.significance import paired
from genrecall.serve.batch.lists import Lists
from genrecall.telemetry import progress

_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Limits; every figure is printed, whichever way it goes.

    Attributes:
        k: length of the lists.
        cases: at most so many validation cases are asked, drawn by a fixed seed.
        recall_drop: recall may fall by this share of the active bundle's.
        fill_drop: the fill rate may fall by so much.
        least_overlap: of the two bundles' lists.
        most_drift: Jensen-Shannon divergence in bits.
    """

    k: int = 10
    cases: int = 1000
    recall_drop: float = 0.02
    fill_drop: float = 0.01
    least_overlap: float = 0.2
    most_drift: float = 0.3

    def __post_init__(self) -> None:
        if self.k < 1 or self.cases < 1:
            raise ConfigError("nothing would be judged", seen=f"k={self.k}, cases={self.cases}", allowed="1 or more",
                              fix="raise them")  # fmt: skip
        for name in ("recall_drop", "fill_drop", "least_overlap", "most_drift"):
            value = vars(self)[name]
            if not 0 <= value <= 1:
                raise ConfigError(f"the gate {name} is out of range", seen=value, allowed="0 to 1", fix="correct it")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One figure against its limit.

    Attributes:
        name: what is measured.
        before, after: of the active bundle and of the candidate; ``before`` is None where only the pair has a figure.
        limit: in words.
        passed: whether the candidate may go on.
        note: what else a reader should know.
    """

    name: str
    before: float | None
    after: float
    limit: str
    passed: bool
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Answers:
    items: list[list[str]]
    filled: np.ndarray
    first_codes: np.ndarray


def judge(
    active: Path, candidate: Path, catalog: Catalog, cases: Cases, config: GateConfig, *, device: str = "auto"
) -> list[Gate]:
    """All gates, in the order of the module's text.

    Args:
        active, candidate: bundles.
        catalog: whose users and items the cases number.
        cases: validation cases that neither bundle was trained on.
        config: limits.
        device: of both engines.

    Raises:
        ConfigError: there is not a single case.
    """
    if not len(cases):
        raise ConfigError(
            "there is nothing to judge by", seen="no validation case", allowed="users with three events or more",
            fix="wait for more events, or choose another split for the bundle",
        )  # fmt: skip
    drawn = np.sort(np.random.default_rng(0).permutation(len(cases))[: config.cases])
    asked = cases.subset(drawn)
    users, targets = _behaviours(catalog, asked), [catalog.items.ids[item] for item in asked.targets.tolist()]
    sides = [_ask(path, users, config.k, device, label) for path, label in ((active, "active"), (candidate, "new"))]
    return [
        _recall(sides, targets, config),
        *_fill(sides, asked.histories.lengths, config),
        *_drift(sides, active, candidate, config),
    ]


def _behaviours(catalog: Catalog, cases: Cases) -> list[Behaviour]:
    ids, timed = catalog.items.ids, cases.histories.timed
    return [
        Behaviour(
            item_ids=[ids[item] for item in cases.histories.of(row)],
            times=cases.histories.times_of(row) if timed else None,
            profile=catalog.profile_of(user),
            user=catalog.events.user_ids[user],
        )
        for row, user in enumerate(cases.users.tolist())
    ]


def _ask(bundle: Path, users: Sequence[Behaviour], k: int, device: str, label: str) -> _Answers:
    contents = Contents.open(bundle)
    lists, found = Lists(contents, Recommender.load(bundle, device=device), k), []
    queries, names = [user.query(contents.items.index) for user in users], [user.user for user in users]
    with progress(f"asking the {label} bundle", len(queries)) as bar:
        for begin in range(0, len(queries), _BATCH):
            found += lists.answer(queries[begin : begin + _BATCH], names[begin : begin + _BATCH])
            bar.advance(min(_BATCH, len(queries) - begin))
    codes = contents.table.sids[[item for listed in found for item in listed.items], 0]
    return _Answers(
        items=[[contents.items.ids[item] for item in listed.items] for listed in found],
        filled=np.array([listed.filled + k - len(listed.items) for listed in found]),
        first_codes=np.bincount(codes, minlength=contents.table.space.codes[0]),
    )


def _recall(sides: Sequence[_Answers], targets: Sequence[str], config: GateConfig) -> Gate:
    hits = [
        np.array([target in listed for listed, target in zip(side.items, targets, strict=True)], float)
        for side in sides
    ]
    before, after = (float(side.mean()) for side in hits)
    gap = paired(hits[1], hits[0]).interval
    return Gate(
        name=f"recall@{config.k}, validation",
        before=before,
        after=after,
        limit=f"at least {before * (1 - config.recall_drop):.4f} ({config.recall_drop:.0%} below the active)",
        passed=after >= before * (1 - config.recall_drop),
        note=f"{len(targets):,} cases; difference {gap.mean:+.4f}, 95% interval {gap.low:+.4f} to {gap.high:+.4f}",
    )


def _fill(sides: Sequence[_Answers], lengths: np.ndarray, config: GateConfig) -> list[Gate]:
    short = lengths <= np.quantile(lengths, 0.25)
    gates = []
    for name, rows in (("all users", np.ones(len(lengths), bool)), ("shortest quarter of histories", short)):
        before, after = (float(1 - side.filled[rows].mean() / config.k) for side in sides)
        gates.append(
            Gate(
                name=f"fill@{config.k}, {name}",
                before=before,
                after=after,
                limit=f"at least {before - config.fill_drop:.4f}",
                passed=after >= before - config.fill_drop,
                note=f"{int(rows.sum()):,} users",
            )
        )
    return gates


def _drift(sides: Sequence[_Answers], active: Path, candidate: Path, config: GateConfig) -> list[Gate]:
    overlap = of_lists(sides[0].items, sides[1].items, config.k)
    sids, divergence = compare(active, candidate).sids, jensen_shannon(sides[0].first_codes, sides[1].first_codes)
    return [
        Gate(
            name=f"overlap@{config.k} with the active",
            before=None,
            after=overlap.mean,
            limit=f"at least {config.least_overlap:.2f}",
            passed=overlap.mean >= config.least_overlap,
            note=f"{overlap.same_first:.0%} keep their first item",
        ),
        Gate(
            name="drift of what is shown, bits",
            before=None,
            after=divergence,
            limit=f"at most {config.most_drift:.2f}",
            passed=divergence <= config.most_drift,
            note="Jensen-Shannon, by first code",
        ),
        Gate(
            name="known items whose SID changed",
            before=None,
            after=float(len(sids.changed)),
            limit="0",
            passed=not sids.changed,
            note=f"{sids.common:,} items in both",
        ),
    ]


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """Divergence in bits of two count vectors (C,) and (C',); the shorter one is padded."""
    size = max(len(first), len(second))
    shares = [np.pad(side, (0, size - len(side))) / max(side.sum(), 1) for side in (first, second)]
    return max(_bits((shares[0] + shares[1]) / 2) - (_bits(shares[0]) + _bits(shares[1])) / 2, 0.0)


def _bits(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())


def require_passed(gates: Sequence[Gate], bundle: Path) -> None:
    """Refuse a bundle that a gate stopped."""
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise ConfigError(
            f"the refreshed bundle did not pass: {', '.join(gate.name for gate in failed)}",
            seen="; ".join(f"{gate.name} {gate.after:.4f}" for gate in failed),
            allowed="; ".join(f"{gate.name} {gate.limit}" for gate in failed),
            fix=f"look at `genrecall bundle diff` with {bundle}; train longer (--epochs), or move the limit on purpose",
        )


def told(gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """JSON-able."""
    return [vars(gate) for gate in gates]
