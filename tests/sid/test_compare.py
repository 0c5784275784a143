"""Comparing tokenisers: what is shared between candidates, what a judge sees, and what the page must say."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from genrecall.catalog.histories import Histories
from genrecall.catalog.sources.open import open_source
from genrecall.catalog.split import Split, leave_one_out
from genrecall.catalog.store import Catalog, import_catalog
from genrecall.cli.sid import app
from genrecall.errors import ConfigError
from genrecall.recipes.tokenizers import ALARMS, page
from genrecall.sid.behaviour import Behaviour
from genrecall.sid.compare import Candidate, Row, compare, default_candidates
from genrecall.sid.config import SidConfig
from genrecall.sid.fsq import FsqConfig
from genrecall.sid.rq_vae import RqVaeConfig
from genrecall.sid.table import SidTable
from genrecall.text.vectors import write_vectors
from tests import synthetic
from tests.sid.clouds import cloud

SMALL = SidConfig(
    levels=2,
    codes=16,
    rq_vae=RqVaeConfig(hidden=(16,), latent=8, min_steps=10, epochs=1),
    fsq=FsqConfig(hidden=(16,), min_steps=10, epochs=1),
).on("cpu")


@dataclass(frozen=True)
class Given:
    item_ids: list[str]
    matrix: np.ndarray
    identity: dict[str, Any]
    digest: str = "sha256:vectors"


@pytest.fixture(scope="module")
def vectors() -> Given:
    return Given([f"i{n}" for n in range(48)], cloud(items=48, groups=6), {"name": "cloud"})


@pytest.fixture(scope="module")
def split() -> Split:
    """Users stay in one of the clusters of the vectors."""
    rng = np.random.default_rng(0)
    rows = [(rng.permutation(8)[:5] * 6 + user % 6).tolist() for user in range(60)]
    return leave_one_out(Histories.from_lists(rows))


@pytest.fixture(scope="module")
def rows(vectors: Given, split: Split) -> list[Row]:
    return compare(vectors, default_candidates(SMALL, events=True), split=split)


def test_the_default_set_compares_quantisers_behaviour_and_rules(rows: list[Row]) -> None:
    configs = [row.candidate.config for row in rows]
    assert {config.quantizer for config in configs} == {"rq_vae", "rq_kmeans", "fsq", "pq"}
    assert {config.collisions for config in configs} == {"reassign", "sinkhorn", "extra_level", "keep"}
    assert any(config.aligned for config in configs)
    assert any(config.rq_kmeans.balance for config in configs)
    assert len({row.candidate.name for row in rows}) == len(rows)
    text = default_candidates(SMALL, events=False)
    assert not any(one.config.needs_behaviour for one in text)


def test_a_control_knows_nothing_and_says_so(rows: list[Row]) -> None:
    control = rows[-1]
    same = next(row for row in rows if row.candidate.config == control.candidate.config)
    assert control.candidate.shuffled
    chance = control.agreement["text"]["chance"]
    assert abs(control.agreement["text"]["overlap"] - chance) < 0.06 < same.agreement["text"]["overlap"] - chance
    assert any("random" in line for line in control.quality["alarms"])
    assert control.ranks is not None
    assert same.ranks is not None
    assert control.ranks.recall(5) < same.ranks.recall(5)


def test_one_fit_serves_all_rules_and_the_judge_sees_every_table(vectors: Given, split: Split) -> None:
    shown: list[SidTable] = []

    def judge(table: SidTable) -> float:
        shown.append(table)
        return float(len(shown))

    config = replace(SMALL, quantizer="rq_kmeans", codes=6)
    candidates = [Candidate(name=rule, config=replace(config, collisions=rule)) for rule in ("keep", "extra_level")]
    kept, numbered = compare(vectors, candidates, judge=judge)
    assert [kept.judged, numbered.judged] == [1.0, 2.0]
    assert np.array_equal(shown[0].sids, shown[1].sids[:, :2])
    assert kept.quality["collision_rate"]["after"] > 0 == numbered.quality["collision_rate"]["after"]
    assert kept.ranks is None  # no events, no count model
    report = page([kept, numbered]).to_markdown()
    assert "figure of the judge" in report
    assert "count model" not in report.split("## Judged")[0]


def test_behaviour_needs_events_or_vectors(vectors: Given) -> None:
    candidates = [Candidate(name="fused", config=replace(SMALL, quantizer="pq", collaborative_weight=0.5))]
    with pytest.raises(ConfigError, match="training events"):
        compare(vectors, candidates)
    given = Behaviour(matrix=np.random.default_rng(0).normal(size=(48, 3)), identity={"source": "other"})
    (row,) = compare(vectors, candidates, behaviour=given)
    assert "behaviour" in row.agreement


def test_the_page_warns_and_holds_every_row(rows: list[Row]) -> None:
    report = page(rows, rule="leave-one-out")
    text, html = report.to_markdown(), report.to_html()
    assert ALARMS in text
    assert "not objectives" in html
    for row in rows:
        assert text.count(f"| {row.candidate.name} |") >= 4
    assert html.count("<svg") == 1
    assert json.loads(json.dumps([row.to_dict() for row in rows]))[0]["proxy"]["cases"] == 60


def test_the_verb_writes_page_and_json(tmp_path: Path) -> None:
    run = tmp_path / "run"
    catalog: Catalog = import_catalog(
        open_source(synthetic.write(tmp_path / "in", users=24, items=48)), run / "catalog"
    )
    encoder = {"name": "cloud", "version": "1", "dim": 12, "pooling": "none", "digest": ""}
    write_vectors(
        run / "vectors", catalog.items.ids, cloud(items=48), config={"encoder": encoder}, parents={}, facts={}
    )
    options = ["compare", "--run", str(run), "--levels", "2", "--codes", "16", "--only", "rq_kmeans", "--only", "pq"]
    done = CliRunner().invoke(app, [*options, "--html", str(run / "page.html"), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {row["config"]["quantizer"] for row in found} == {"rq_kmeans", "pq"}
    assert "Item-level recall of a count model" in (run / "page.html").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="such a name"):
        CliRunner().invoke(app, [*options[:3], "--only", "luck"], catch_exceptions=False)
