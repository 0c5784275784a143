from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genrecall.sid import quality
from genrecall.sid.neighbours import Nearest, nearest_items, nearest_sids
from genrecall.sid.normaliser import Normaliser
from genrecall.sid.plots import draw
from genrecall.sid.rq_kmeans import RqKMeans, RqKMeansConfig
from genrecall.sid.space import SidSpace
from genrecall.telemetry import Bar
from tests.sid.clouds import cloud


def test_level_use_by_hand() -> None:
    use = quality.level_use(np.array([0, 0, 1, 1, 3]), 5)
    assert (use["used"], use["dead"], use["counts"]) == (3, 2, [2, 2, 1, 0, 0])
    shares = np.array([0.4, 0.4, 0.2])
    assert use["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert quality.level_use(np.arange(8) % 4, 4)["perplexity"] == pytest.approx(4)


def test_prefix_use_by_hand() -> None:
    sids = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 2], [2, 3, 1]])
    uses = [quality.prefix_use(*quality.owners(sids), level) for level in range(3)]
    assert [use["prefixes"] for use in uses] == [2, 3, 4]
    assert [use["forced_items"] for use in uses] == [0, 0.25, 0.5]
    assert uses[2]["prefix_entropy_bits"] == pytest.approx(2)
    assert quality.prefix_use(*quality.owners(sids[:, :1] * 0), 0)["forced_items"] == 1


def test_collisions_and_owners_by_hand() -> None:
    sids = np.array([[0, 0], [0, 0], [0, 1], [0, 0], [1, 1]])
    counts = quality.owners(sids)[1]
    assert quality.collision_rate(counts) == pytest.approx(0.6)
    assert quality.items_per_sid(counts) == {"mean": pytest.approx(5 / 3), "max": 3, "histogram": {"1": 2, "3": 1}}


def test_overlap_is_one_for_neighbours_kept_and_chance_for_no_information() -> None:
    vectors = np.repeat(np.eye(8), 5, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(40, 8))
    normaliser = Normaliser.fit(vectors)
    nearest = Nearest.of(vectors, normaliser, neighbours=4, queries=40, seed=0)
    groups = np.repeat(np.arange(8), 5)[:, None]
    assert nearest.overlap(groups)["overlap"] == pytest.approx(1)
    nothing = nearest.overlap(groups * 0)
    assert nothing["overlap"] == pytest.approx(nothing["chance"])


@pytest.mark.parametrize("size", [3, 17, 240])
def test_neighbours_are_those_of_all_pairs_whatever_the_steps(size: int) -> None:
    vectors = cloud()
    normaliser = Normaliser.fit(vectors)
    nearest = Nearest(vectors, normaliser, neighbours=5, queries=240, seed=0)
    for rows in normaliser.chunks(vectors, size):
        nearest.see(rows)
    unit = torch.nn.functional.normalize(normaliser.rows(vectors)).numpy()
    near = np.argsort(-(unit @ unit.T - 3 * np.eye(240)))[:, :5]
    sids = np.random.default_rng(1).permutation(240)[:, None] // 60
    # A neighbour of the same code is one of 59 that are equally near by SID, of which 5 are drawn.
    alike = (sids[near, 0] == sids).mean() * 5 / 59
    assert nearest.overlap(sids)["overlap"] == pytest.approx(alike)


def test_neighbours_of_one_item() -> None:
    sids = np.array([[0, 0], [1, 0], [0, 1], [0, 0]])
    assert nearest_sids(sids, 0, 2) == [(3, 2), (2, 1)]
    vectors = np.array([[1.0, 0.0], [-1.0, 0.1], [0.9, 0.2], [0.0, -1.0]])
    assert nearest_items(vectors, Normaliser.fit(vectors), 0, 1)[0][0] == 2


def make_report(items: int = 240) -> dict:
    vectors = cloud(items)
    quantizer = RqKMeans(levels=2, codes=6, config=RqKMeansConfig(device="cpu")).fit(vectors, seed=0)
    codes = quantizer.encode(vectors)
    titles = [f"group {i % 6}" for i in range(len(vectors))]
    bar = Bar("measuring", items, None)
    found = quality.report(
        codes=codes, sids=codes, space=SidSpace.uniform(2, 6), quantizer=quantizer, vectors=vectors, titles=titles,
        bar=bar,
    )  # fmt: skip
    assert bar.done == items
    return found


def test_report_names_clusters_and_is_json() -> None:
    found = json.loads(json.dumps(make_report()))
    assert found["alarms"] == [
        line for line in found["alarms"] if "shared their SID" in line
    ]  # 240 items in 36 SIDs do collide; nothing else is wrong
    assert all(len(cluster["titles"]) == 1 for cluster in found["clusters"])
    assert found["reconstruction_error"]["by_levels"][1] < found["reconstruction_error"]["by_levels"][0] < 0.5


def test_a_report_on_one_item() -> None:
    found = make_report(1)
    assert found["neighbours"]["k"] == 0
    assert found["reconstruction_error"] == {"before": 0, "after": 0, "by_levels": [0, 0]}


def test_a_starved_first_level_is_an_alarm() -> None:
    found = make_report()
    found["levels"][0]["used"] = 2
    assert any("starved" in line for line in quality.alarms(found))


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = draw(make_report(), tmp_path / "plots")
    assert len(files) == 4
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
