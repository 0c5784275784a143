"""What is computed of a request and a candidate together, where the network runs: crosses and numbers.

    row_f(r, j) = 1 + mix(u_f(r) ⊕ v_f(j)) mod buckets_f        number(r, j) = ln(floor + Σ_a decay^a · M[h_a, j])

A thousand candidates a request make these the larger part of all features. ``features`` defines them and computes them
on a CPU; on a GPU they are two kernels, with the same rows and the same sums, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from genrecall.kernels.crossed_rows import Codes, crossed_rows
from genrecall.kernels.history_sums import Matrix, Past, history_sums
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
        affinities: matrix and weights float64 (A,) of each.
        floors: float64, of the affinities.
        order: int64 (F + N,), where evidence and numbers stand after evidence, logged ones, affinities.
    """

    names: tuple[str, ...]
    codes: Codes | None
    buckets: torch.Tensor
    logged: torch.Tensor
    affinities: tuple[tuple[Matrix, torch.Tensor], ...]
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
                folded=_sent(np.stack([halves[name].items.folded for name in names]), device),
                there=_sent(np.stack([halves[name].items.there for name in names]), device),
            )
        matrices = {name: _matrix(relation, device) for name, relation in features.relations.items()}
        affine = np.array([isinstance(number, Affinity) for number in schema.numbers], bool)
        columns = [features.logged[n.name] for n in schema.numbers if not isinstance(n, Affinity)]
        behind = np.argsort(np.argsort(affine, kind="stable")) + len(schema.evidence)
        return cls(
            names=names,
            codes=codes,
            buckets=_sent(np.array([halves[name].buckets for name in names], np.int64), device),
            logged=_sent(np.stack(columns, 1) if columns else np.empty((features.num_items, 0), np.float32), device),
            affinities=tuple((matrices[n.of], _sent(weights_of(n), device)) for n in schema.affinities),
            floors=_sent(np.array([n.floor for n in schema.affinities]), device),
            order=_sent(np.concatenate([np.arange(len(schema.evidence)), behind]), device),
        )

    def rows(self, requests: Codes, owner: torch.Tensor, candidates: torch.Tensor) -> dict[str, torch.Tensor]:
        """int64 (P,) by cross, of what R requests say."""
        if self.codes is None:
            return {}
        found = crossed_rows(requests, self.codes, self.buckets, owner, candidates)
        return dict(zip(self.names, found, strict=True))

    def told(self, evidence: torch.Tensor, past: Past, owner: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """float32 (P, F + N): evidence float32 (P, F), then all numbers."""
        parts = [evidence, self.logged[candidates.long()]]
        if self.affinities:
            sums = [history_sums(matrix, past, weights, owner, candidates) for matrix, weights in self.affinities]
            parts.append((torch.stack(sums, 1) + self.floors).log().float())
        return torch.cat(parts, 1)[:, self.order]


def _matrix(relation: Relation, device: torch.device) -> Matrix:
    offsets, items, values = relation.items.offsets, relation.items.values, relation.values
    owner = relation.items.owner
    order = np.lexsort((items, owner))
    items, values = items[order], values[order]
    assert not ((items[1:] == items[:-1]) & (owner[1:] == owner[:-1])).any(), "a relation holds an entry twice"
    return Matrix(
        offsets=_sent(offsets, device), items=_sent(items, device), values=_sent(values, device),
        longest=int(np.diff(offsets).max(initial=0)),
    )  # fmt: skip


def _sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    plain = array.view(np.int64) if array.dtype == np.uint64 else array
    return torch.from_numpy(np.require(plain, requirements=("C", "W"))).to(device)
