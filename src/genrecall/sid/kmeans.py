"""k-means in torch: greedy k-means++ seeds, Lloyd steps in chunks, and no empty cluster while points differ.

    minimise  Σ_i |x_i − c_{a(i)}|²     by   a(i) = argmin_k |x_i − c_k|²,   c_k = mean of its points

Source: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++, with the greedy trials of its section 4). We deviate: the
seeds are drawn from a sample, and a cluster that runs empty moves to the point that is quantised worst.

Under torchrun all processes hold all points and call this together; each looks for the centres of its share of them,
and counts and sums are added up, so that centres are those of one process up to rounding, and the same on all.
"""

from __future__ import annotations

import torch

from genrecall.processes import share, summed, together

CHUNK = 16_384
_MANY = 1024  # clusters: from there on seeding, which takes them one by one, is what costs
_SEED_POINTS_PER_CLUSTER = {False: 64, True: 16}


def nearest(
    points: torch.Tensor,
    centres: torch.Tensor,
    lengths: torch.Tensor | None = None,
    prices: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest centre of each point: int64 (n,) and squared distances (n,).

    ``lengths``: |x|² (n,) where it is known; ``prices``: (K,) added to the distances to each centre.
    """
    lengths = points.square().sum(1) if lengths is None else lengths
    codes, distances = [], []
    for chunk, length in zip(points.split(CHUNK), lengths.split(CHUNK), strict=True):
        cost = squared_distances(chunk, centres, length)
        distance, code = (cost if prices is None else cost.add_(prices)).min(1)
        codes.append(code)
        distances.append(distance)
    return torch.cat(codes), torch.cat(distances)


def squared_distances(points: torch.Tensor, centres: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """(n, K) squared distances, never negative."""
    lengths = points.square().sum(1) if lengths is None else lengths
    cross = torch.addmm(centres.square().sum(1), points, centres.T, alpha=-2)
    return cross.add_(lengths[:, None]).clamp_(min=0)


def kmeans(points: torch.Tensor, clusters: int, *, steps: int, generator: torch.Generator) -> torch.Tensor:
    """Centres (clusters, D) of (n, D) points."""
    return lloyd(points, seeds(points, clusters, generator=generator), steps=steps)


def seeds(points: torch.Tensor, clusters: int, *, generator: torch.Generator) -> torch.Tensor:
    """Greedy k-means++: each next centre is the best of a few points drawn by squared distance."""
    limit = _SEED_POINTS_PER_CLUSTER[clusters > _MANY] * clusters
    if len(points) > limit:
        sample = torch.randperm(len(points), generator=generator)[:limit].sort().values
        points = points[sample.to(points.device)]
    trials = 1 if clusters > _MANY else 4
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [first]
    lengths = points.square().sum(1)
    gap = squared_distances(points, points[first : first + 1], lengths)[:, 0]
    # Below this a "distance" is the rounding of squares: the points coincide.
    noise = 1e-6 * float(lengths.mean())
    while len(chosen) < clusters:
        weights = torch.where(gap > noise, gap, 0.0).cpu()
        if float(weights.sum()) <= 0:  # fewer distinct points than clusters: the rest stay unused copies
            chosen += torch.randint(len(points), (clusters - len(chosen),), generator=generator).tolist()
            break
        draws = torch.multinomial(weights, trials, replacement=True, generator=generator).to(points.device)
        gaps = torch.minimum(gap[:, None], squared_distances(points, points[draws], lengths))
        best = int(gaps.sum(0).argmin())
        gap = gaps[:, best]
        chosen.append(int(draws[best]))
    return points[torch.tensor(chosen, device=points.device)].clone()


def lloyd(points: torch.Tensor, centres: torch.Tensor, *, steps: int) -> torch.Tensor:
    """At most ``steps`` Lloyd steps; ends early when no point changes its centre."""
    before: torch.Tensor | None = None
    own = points[share()].contiguous()
    lengths = own.square().sum(1)
    for _ in range(steps):
        codes, distances = nearest(own, centres, lengths)
        if before is not None and not int(summed((codes != before).sum())):
            break
        before = codes
        centres = means(points, centres, codes, distances)
    return centres


def means(points: torch.Tensor, centres: torch.Tensor, codes: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Each centre moved to the mean of its points; those without points are revived.

    Args:
        points: (n, D), all of them.
        centres: (K, D).
        codes, distances: of this process's share of the points.
    """
    counts = summed(torch.bincount(codes, minlength=len(centres)))
    sums = summed(torch.zeros_like(centres).index_add_(0, codes, points[share()]))
    centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    dead = counts == 0
    return revive(centres, dead, points, together(distances, len(points))) if bool(dead.any()) else centres


def revive(centres: torch.Tensor, dead: torch.Tensor, points: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Move the dead centres onto the points that are farthest from their own centre, as far as there are such."""
    empty = dead.nonzero()[:, 0]
    if not len(empty):
        return centres
    worst, index = distances.topk(min(len(empty), len(points)))
    index = index[worst > 1e-6 * (points * points).sum(1).mean()]
    centres = centres.clone()
    centres[empty[: len(index)]] = points[index]
    return centres
