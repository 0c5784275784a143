from __future__ import annotations

import torch

from genrecall.sid.kmeans import kmeans, lloyd, nearest, seeds
from tests.sid.clouds import cloud


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_finds_separate_clusters() -> None:
    truth = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = (truth[:, None] + 0.1 * torch.randn(4, 25, 2, generator=generator())).reshape(-1, 2)
    centres = kmeans(points, 4, steps=10, generator=generator())
    assert nearest(truth, centres)[1].max() < 0.1


def test_lloyd_never_worsens() -> None:
    points = torch.from_numpy(cloud(dim=4))
    start = seeds(points, 10, generator=generator())
    losses = [float(nearest(points, lloyd(points, start, steps=steps))[1].sum()) for steps in range(6)]
    assert losses == sorted(losses, reverse=True)


def test_empty_clusters_are_revived() -> None:
    points = torch.from_numpy(cloud())
    centres = torch.cat([points[:4], torch.full((4, points.shape[1]), 1e6)])
    assert len(nearest(points, lloyd(points, centres, steps=10))[0].unique()) == 8


def test_more_clusters_than_points_hit_each_point() -> None:
    points = torch.randn(5, 3, generator=generator())
    assert nearest(points, kmeans(points, 9, steps=5, generator=generator()))[1].max() < 1e-5
