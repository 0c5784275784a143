"""What the network reads, on its device: a request's rows in one copy; what concerns items alone lies there already.

    row(f, p) = rows_f[item(p)]        for features of items whose bags hold one row each

One copy, because the host waits for each of the small ones that it replaces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from genrecall.kernels.crossed_rows import Codes
from genrecall.kernels.history_sums import Past
from genrecall.rank.columns import Asked, Ragged
from genrecall.rank.features import Features, Rows
from genrecall.rank.pairs import PairSide, sent
from genrecall.rank.schema import Behaviour, Schema

_ALIGNED = 16
"""Bytes; a place is a multiple of what it holds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemSide:
    """What is known of the I items, on the device.

    Attributes:
        names: of the features that ``rows`` are of.
        rows: int64 (n, I), see ``Features.item_rows``.
        vectors: float32 (I, D); None where the schema reads none.
        pairs: on a GPU: for what concerns requests and candidates together.
    """

    names: tuple[str, ...]
    rows: torch.Tensor
    vectors: torch.Tensor | None
    pairs: PairSide | None

    @classmethod
    def of(cls, features: Features, vectors: np.ndarray | None, device: torch.device) -> Self:
        """Send it."""
        rows = features.item_rows
        stacked = np.stack(list(rows.values())) if rows else np.empty((0, features.num_items), np.int64)
        return cls(
            names=tuple(rows),
            rows=sent(stacked, device),
            vectors=None if vectors is None else sent(vectors, device),
            pairs=PairSide.of(features, device) if device.type == "cuda" else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """``Rows`` as tensors, and the items' side of the candidates.

    Attributes:
        bags: by feature: rows int64, and where bags begin, int64; None where every bag holds one row.
        past: by behaviour feature: rows int64 (R, S) and which of them are there, bool (R, S).
        owner: int64 (P,).
        told: float32 (P, F + N): evidence, then numbers.
        state: float32 (R, E) or None.
        vectors: float32 (P, D) or None.
    """

    bags: Mapping[str, tuple[torch.Tensor, torch.Tensor | None]]
    past: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    owner: torch.Tensor
    told: torch.Tensor
    state: torch.Tensor | None
    vectors: torch.Tensor | None


def inputs_of(
    features: Features, asked: Asked, items: ItemSide, device: torch.device, *, counted: bool = True
) -> Inputs:
    """What the network is told of requests; without ``counted`` no number of the schema is known."""
    rows = features.of(asked, counted=counted, whole=items.pairs is None)
    # Kernels are launched on the current GPU, whichever their tensors are on.
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        return _to_inputs(rows, features.schema, items, device)


def _to_inputs(rows: Rows, schema: Schema, items: ItemSide, device: torch.device) -> Inputs:
    """Send a batch to the device; what belongs to a feature is named with a dot, which no feature's name has."""
    arrays: dict[str, np.ndarray] = {"owner": rows.owner, "items": rows.items, "told": rows.told}
    if schema.state and rows.state is not None:
        arrays["state"] = rows.state
    if rows.halves:
        arrays["folded"] = np.stack([half.folded for half in rows.halves.values()]).view(np.int64)
        arrays["there"] = np.stack([half.there for half in rows.halves.values()])
    if rows.past is not None:
        arrays["past"], arrays["past begins"] = rows.past.values, rows.past.offsets
    behaviours = {feature.name for feature in schema.features if isinstance(feature, Behaviour)}
    for name, bag in rows.bags.items():
        if name in behaviours:
            arrays[f"{name}.rows"], arrays[f"{name}.there"] = padded(bag)
            continue
        arrays[f"{name}.rows"] = bag.values
        if len(bag.values) != len(bag):  # no bag is empty
            arrays[f"{name}.begins"] = bag.offsets[:-1]
    found = sent_together(arrays, device)
    owner, candidates, told = found["owner"], found["items"].long(), found["told"]
    of_items = zip(items.names, items.rows[:, candidates], strict=True)
    bags: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {name: (row, None) for name, row in of_items}
    bags |= {name: (found[f"{name}.rows"], found.get(f"{name}.begins")) for name in rows.bags if name not in behaviours}
    if items.pairs is not None and rows.halves:
        requests = Codes(folded=found["folded"], there=found["there"])
        crossed = items.pairs.rows(requests, owner, found["items"])
        bags |= {name: (row, None) for name, row in crossed.items()}
    if items.pairs is not None and rows.past is not None:
        past = Past(items=found["past"], offsets=found["past begins"])
        told = items.pairs.told(told, past, owner, found["items"])
    return Inputs(
        bags=bags,
        past={name: (found[f"{name}.rows"], found[f"{name}.there"]) for name in rows.bags if name in behaviours},
        owner=owner,
        told=told,
        state=found.get("state"),
        vectors=None if items.vectors is None or not schema.vectors else items.vectors[candidates],
    )


def sent_together(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """All of them, on a GPU by one copy out of page-locked memory, which the host does not wait for."""
    if device.type != "cuda":
        return {name: sent(array, device) for name, array in arrays.items()}
    places, size = {}, 0
    for name, array in arrays.items():
        places[name] = slice(size, size + array.nbytes)
        size += -(-array.nbytes // _ALIGNED) * _ALIGNED
    staged = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    for name, array in arrays.items():
        staged.numpy()[places[name]] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    flat = staged.to(device, non_blocking=True)
    return {
        name: flat[places[name]].view(torch.from_numpy(np.empty(0, array.dtype)).dtype).view(array.shape)
        for name, array in arrays.items()
    }


def padded(bag: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """int64 (n, S) rows, 0 behind the end of a list, and which are there, bool (n, S)."""
    lengths = bag.lengths
    rows = np.zeros((len(bag), max(int(lengths.max(initial=0)), 1)), np.int64)
    there = np.arange(rows.shape[1]) < lengths[:, None]
    rows[there] = bag.values
    return rows, there
