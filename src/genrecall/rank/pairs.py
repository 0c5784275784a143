"""What is computed of a request and a candidate together, where the network runs: crosses and numbers.

    row_f(r, j) = 1 + mix(u_f(r) ⊕ v_f(j)) mod buckets_f        number(r, j) = ln(floor + Σ_a decay^a · M[h_a, j])

A thousand candidates a request make these the larger part of all features. ``features`` defines them and computes them
on a CPU; on a GPU they are two kernels, with the same rows and the same sums, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from genrecall.kernels.crossed_rows import Codes, crossed_rows
from genrecall.kernels.history_sums import Matrices, Past, Readings, history_sums
from genrecall.rank.affinity import Relation, weights_of
from genrecall.rank.features import Features
from genrecall.rank.schema import Affinity


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSide:
    """What is known of items, on the device.

    Attributes:
        names: of the crosses, in order.
        codes: of the items, for the crosses; None without any.
        buckets: int64 (C,).
        logged: float32 (I, n): numbers of items alone.
        matrices: of all relations.
        readings: of the affinities.
        floors: float64, of the affinities.
        order: int64 (F + N,), where evidence and numbers stand after evidence, logged ones, affinities.
    """

    names: tuple[str, ...]
    codes: Codes | None
    buckets: torch.Tensor
    logged: torch.Tensor
    matrices: Matrices
    readings: Readings
    floors: torch.Tensor
    order: torch.Tensor

    @classmethod
    def of(cls, features: Features, device: torch.device) -> Self:
        """Send it."""
        schema, halves = features.schema, features.halves
        names = tuple(halves)
        codes = None
        if names:
            codes = Codes(
                folded=sent(np.stack([halves[name].items.folded for name in names]), device),
                there=sent(np.stack([halves[name].items.there for name in names]), device),
            )
        relations = list(features.relations)
        affinities = schema.affinities
        weights = np.zeros((len(affinities), max((n.last for n in affinities), default=1)))
        for row, number in zip(weights, affinities, strict=True):
            row[len(row) - number.last :] = weights_of(number)
        affine = np.array([isinstance(number, Affinity) for number in schema.numbers], bool)
        columns = [features.logged[n.name] for n in schema.numbers if not isinstance(n, Affinity)]
        behind = np.argsort(np.argsort(affine, kind="stable")) + len(schema.evidence)
        return cls(
            names=names,
            codes=codes,
            buckets=sent(np.array([halves[name].buckets for name in names], np.int64), device),
            logged=sent(np.stack(columns, 1) if columns else np.empty((features.num_items, 0), np.float32), device),
            matrices=_matrices(list(features.relations.values()), features.num_items, device),
            readings=Readings(
                matrix=sent(np.array([relations.index(n.of) for n in affinities], np.int32), device),
                last=sent(np.array([n.last for n in affinities], np.int32), device),
                weights=sent(weights, device),
            ),
            floors=sent(np.array([n.floor for n in affinities]), device),
            order=sent(np.concatenate([np.arange(len(schema.evidence)), behind]), device),
        )

    def rows(self, requests: Codes, owner: torch.Tensor, candidates: torch.Tensor) -> dict[str, torch.Tensor]:
        """int64 (P,) by cross, of what R requests say."""
        if self.codes is None:
            return {}
        found = crossed_rows(requests, self.codes, self.buckets, owner, candidates)
        return dict(zip(self.names, found, strict=True))

    def told(self, evidence: torch.Tensor, past: Past, owner: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """float32 (P, F + N): evidence float32 (P, F), then all numbers."""
        sums = history_sums(self.matrices, self.readings, past, owner, candidates)
        near = (sums + self.floors[:, None]).log().float().t()
        return torch.cat([evidence, self.logged[candidates.long()], near], 1)[:, self.order]


def _matrices(relations: Sequence[Relation], num_items: int, device: torch.device) -> Matrices:
    offsets, items, values, before = [], [np.empty(0, np.int32)], [np.empty(0, np.float32)], 0
    for relation in relations:
        owner = relation.items.owner
        order = np.lexsort((relation.items.values, owner))
        own = relation.items.values[order]
        assert not ((own[1:] == own[:-1]) & (owner[1:] == owner[:-1])).any(), "a relation holds an entry twice"
        offsets.append(relation.items.offsets + before)
        items.append(own)
        values.append(relation.values[order])
        before += len(own)
    rows = np.stack(offsets) if offsets else np.zeros((0, num_items + 1), np.int64)
    return Matrices(
        offsets=sent(rows, device), items=sent(np.concatenate(items), device),
        values=sent(np.concatenate(values), device), longest=int(np.diff(rows).max(initial=0)),
    )  # fmt: skip


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """On the device; unsigned words as int64 of the same bits."""
    plain = array.view(np.int64) if array.dtype == np.uint64 else array
    return torch.from_numpy(np.require(plain, requirements=("C", "W"))).to(device)
