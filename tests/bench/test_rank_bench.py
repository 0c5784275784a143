"""Recall with ranks beside recall alone, and lookups of a large table: every case runs, is written and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
from typer.testing import CliRunner

from genrecall.bench.engine import failed
from genrecall.bench.load import saturated_by
from genrecall.bench.rank import RankBench, measure
from genrecall.bench.rank_pass import Pass
from genrecall.bench.ranker import Sparse, random_ranker
from genrecall.bench.rig import Setup, open_rig
from genrecall.cli.main import app
from genrecall.errors import ConfigError

BENCH = RankBench(
    shape="tiny", beam=6, candidates=20, unvisited=(0, 5), input=(8, 8), levels=2, codes=16, catalog_items=100,
    table_rows=3000, exponents=(1.0,), cached=(0.05, 0.5), lookups=200, batches=(2,), seconds=0.05, slo_ms=1e4,
    probes=1, device="cpu",
)  # fmt: skip


def test_ranks_are_set_beside_recall_alone(tmp_path) -> None:
    file, heard = tmp_path / "found.json", []
    found = measure(BENCH, file, lambda name, _: heard.append(name))
    assert failed(found) == [], [found["cases"][name]["error"] for name in failed(found)]
    assert heard == ["lookups, power law 1", "saturated", "open loop"]
    assert found["cases"] == json.loads(file.read_text())["cases"]
    rows = found["cases"]["lookups, power law 1"]["placements"]
    assert list(rows) == ["on the device", "host, no cache", "host, cache of 5.0%", "host, cache of 50.0%"]
    assert 0 < rows["host, cache of 5.0%"]["hit_rate"] < rows["host, cache of 50.0%"]["hit_rate"] < 1
    saturated, loop = found["cases"]["saturated"], found["cases"]["open loop"]
    assert saturated["ranked"].keys() == {"0", "5"}
    recall = sum(saturated["recall_requests_per_s"]) / 2
    for ranked in saturated["ranked"].values():
        assert ranked["ratio"] == ranked["requests_per_s"] / recall
    assert "city_x_item" in saturated["tables"]["hosted"]
    assert 0 <= saturated["tables"]["hit_rate"] < 1
    assert loop["recall"]["best"]["p99_ms"] > 0
    assert loop["ratio"] == loop["ranked"]["best"]["rate"] / loop["recall"]["best"]["rate"]
    measure(BENCH, file, lambda name, _: heard.append(name))
    assert len(heard) == 3, "what the file holds is not measured again"
    with pytest.raises(ConfigError, match="something else"):
        measure(replace(BENCH, candidates=10), file)


def test_no_load_finds_prompts_that_another_has_left() -> None:
    bench = replace(BENCH, input=(40, 40))
    rig = open_rig(Setup(shape="tiny", precision="fp32", levels=2, codes=16, items=100), bench.torch_device, 0)
    cache, items = rig.engine.loop.scheduler.cache, len(rig.trie.leaves) * bench.owners
    ranker = random_ranker(items, rig.engine.loop.runner.width, Sparse(rows=500), bench.torch_device, 0)
    with Pass(bench, rig, ranker) as one:
        for ask in (one.recall, partial(one.ranked, 0), one.recall):
            one.run(saturated_by(ask, outstanding=3, seconds=0.05))
    assert cache.read_tokens > 0
    assert cache.hit_tokens == 0


def test_the_verb_prints_a_table() -> None:
    options = {
        "shape": "tiny", "beam": 3, "candidates": 6, "unvisited": 0, "input": 8, "layout": "2x8", "catalog-items": 40,
        "table-rows": 500, "cached": 0.1, "lookups": 50, "batch": 2, "seconds": 0.03, "slo-ms": 1e4, "probes": 1,
        "device": "cpu",
    }  # fmt: skip
    arguments = ["bench", "rank", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "recall alone" in result.output
    assert "with ranks" in result.output


def test_what_cannot_be_measured_is_refused() -> None:
    for wrong in ({"precision": "fp64"}, {"unvisited": (1000,)}, {"cached": (0.0,)}):
        with pytest.raises(ConfigError, match="cannot be measured"):
            RankBench(**wrong)
