"""k-means whose clusters have a bounded load: a price on each centre.

    a(i) = argmin_k |x_i − c_k|² + p_k,    p_k ≥ 0 raised until no centre has more than bound · n/K points

Source: a capacity-limited least-squares assignment is a power diagram (Aurenhammer, Hoffmann and Aronov 1998,
"Minkowski-type theorems and least-squares clustering"), and prices that rise find it (Bertsekas 1988, the auction
algorithm). We deviate: all crowded centres raise their price at once, by the smallest margin that lets their excess go,
and the best prices of a bounded number of rounds count. A price belongs to a centre and not to a point, so a new vector
is encoded by itself, as everywhere else; equal vectors get equal codes, however many they are.
"""

from __future__ import annotations

from math import ceil

import torch

from genrecall.processes import share, together
from genrecall.sid.kmeans import CHUNK, means, seeds, squared_distances

_ROUNDS, _LAST_ROUNDS = 5, 100
_KEEP = 0.9  # of the prices, when the centres move: what has become too dear comes down again
_SLACK = 0.97  # of the capacity is what a crowded centre keeps, or neighbours pass the same points to and fro


def balanced_kmeans(
    points: torch.Tensor, clusters: int, *, bound: float, steps: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (K, D) and prices (K,) of (n, D) points; ``bound``: largest load over the mean load, above 1."""
    centres = seeds(points, clusters, generator=generator)
    prices = torch.zeros(clusters, device=points.device)
    capacity = ceil(bound * len(points) / clusters)
    for _ in range(steps):
        prices, codes, distances = raise_prices(points, centres, prices * _KEEP, capacity=capacity, rounds=_ROUNDS)
        centres = means(points, centres, codes, distances)
    prices, _, _ = raise_prices(points, centres, prices * _KEEP, capacity=capacity, rounds=_LAST_ROUNDS)
    return centres, prices


def raise_prices(
    points: torch.Tensor, centres: torch.Tensor, prices: torch.Tensor, *, capacity: int, rounds: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prices (K,) from ``prices`` on, with the codes and squared distances that they lead to for this process's share
    of the (n, D) points.

    Ends when no centre has more than ``capacity`` points, or after ``rounds``; then the prices of the smallest
    largest load are returned.
    """
    lengths = points.square().sum(1)
    least = 1e-6 * float(lengths.mean())
    own, own_lengths = points[share()].contiguous(), lengths[share()]
    best: tuple[int, torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    for _ in range(rounds):
        own_codes, own_margins, distances = _two_nearest(own, centres, prices, own_lengths)
        codes, margins = together(own_codes, len(points)), together(own_margins, len(points))
        load = torch.bincount(codes, minlength=len(centres))
        largest = int(load.max())
        if best is None or largest < best[0]:
            best = (largest, prices, own_codes, distances)
        if largest <= capacity:
            break
        order = torch.argsort(margins, stable=True)
        order = order[torch.argsort(codes[order], stable=True)]  # by centre, the readiest to leave first
        crowded = (load > capacity).nonzero()[:, 0]
        leaving = load[crowded] - int(_SLACK * capacity)
        last = (load.cumsum(0) - load)[crowded] + leaving - 1
        prices = prices.index_add(0, crowded, margins[order[last]] + least)
        prices = prices - prices.min()
    assert best is not None
    return best[1:]


def _two_nearest(
    points: torch.Tensor, centres: torch.Tensor, prices: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centre of each point under the prices, how much dearer the second is, and the squared distance to the first."""
    codes, margins, distances = [], [], []
    for chunk, length in zip(points.split(CHUNK), lengths.split(CHUNK), strict=True):
        cost, index = (squared_distances(chunk, centres, length) + prices).topk(min(2, len(centres)), 1, largest=False)
        codes.append(index[:, 0])
        margins.append(cost[:, -1] - cost[:, 0])
        distances.append(cost[:, 0] - prices[index[:, 0]])
    return torch.cat(codes), torch.cat(margins), torch.cat(distances)
